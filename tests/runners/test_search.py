"""The search from its command line to its table and files: once, again, with another seed, and given nonsense."""

import importlib.util
import json

import pytest
from helpers.checkpoints import save_checkpoint
from omegaconf import OmegaConf

from runners.search import CONF, main
from runners.searching import sweeper
from tokensel.evaluation.search.settings import SearchSettings
from tokensel.evaluation.sweep import here

TRIALS, LIMIT = 5, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("search") / "model")


def arguments(model, output, *more):
    return [
        "model=local",
        f"model.path={model}",
        "model.device=cpu",
        f"output_dir={output}",
        "logger=none",
        "latency.repeats=0",
        "controls=[no_image,fastv]",
        "budget=average_tokens:22",  # of 36, over four layers
        f"search.trials={TRIALS}",
        "search.at_once=3",
        f"search.limit={LIMIT}",
        "limit=8",
        "search.best=2",
        *more,
    ]


def searched(folder, name="search"):
    return json.loads((folder / name / "search.json").read_text())


def ids_in(folder):
    return {
        json.loads(line)["id"] for path in folder.glob("*/predictions.jsonl") for line in path.read_text().splitlines()
    }


@pytest.mark.slow
def test_a_search_meets_its_budget_repeats_nothing_and_never_asks_test_questions(model, tmp_path, monkeypatch, capsys):
    assert main(arguments(model, tmp_path, "method=fps,tome")) == 0
    printed = capsys.readouterr().out
    first = searched(tmp_path)
    assert json.loads(printed.splitlines()[-1]) == first
    assert max(map(len, printed[: printed.index("trials,")].splitlines())) <= 80
    assert len(first["trials"]) == TRIALS
    tried = [trial for trial in first["trials"] if trial["error"] is None]
    assert len(tried) >= 3
    folder = tmp_path / "search" / "validation"
    assert len({len(trial["kept"]) for trial in tried}) > 1
    for trial in tried:
        metrics = json.loads((folder / trial["validation"]["key"] / "metrics.json").read_text())
        assert metrics["tokens_layer_mean"] == pytest.approx(22, abs=1)
        assert trial["agg_layer"] == sorted(set(trial["agg_layer"]))
    rules, best = first["best"][:2], first["best"][2:]
    assert [each["rule"] for each in first["best"]] == [True, True, False, False]
    assert {each["method"] for each in rules} == {"fps", "tome"}
    top = max(trial["validation"]["accuracy"] for trial in tried)
    assert best[0]["validation"]["accuracy"] == top
    for each in best:
        rule = next(rule for rule in rules if rule["method"] == each["method"])
        assert each["difference"] == pytest.approx(each["test"]["accuracy"] - rule["test"]["accuracy"])
        assert each["difference_ci_low"] <= each["difference"] <= each["difference_ci_high"]
        assert 0 <= each["p_value"] <= 1
        assert each["test"]["key"] != each["validation"]["key"]
        assert each["test"]["n"] == 8

    validation, test = ids_in(tmp_path / "search" / "validation"), ids_in(tmp_path / "search")
    assert len(validation) == LIMIT
    assert len(test) == 8
    assert all("validation" in id for id in validation)
    assert all("test" in id for id in test)
    methods = {each["method"] for each in json.loads((tmp_path / "search" / "summary.json").read_text())["points"]}
    assert methods >= {"no_image", "fastv"}

    monkeypatch.setattr(here, "evaluate", lambda *_, **__: pytest.fail("computed again"))
    assert main(arguments(model, tmp_path, "method=fps,tome")) == 0
    assert searched(tmp_path) == first


@pytest.mark.slow
def test_a_seed_decides_the_trials_and_what_is_given_is_not_varied(model, tmp_path):
    fixed = ("temperature=0.2", "search.stages=2", "search.trials=3", "controls=[]", "data.split=train")
    for name, seed in (("one", 3), ("other", 4)):
        assert main(arguments(model, tmp_path, f"name={name}", f"search.seed={seed}", *fixed)) == 0
    one, other = searched(tmp_path, "one")["trials"], searched(tmp_path, "other")["trials"]
    assert [each["stages"] for each in one] != [each["stages"] for each in other]
    tried = [each for each in one + other if each["error"] is None]
    assert {each["temperature"] for each in tried} == {0.2}
    assert {len(each["kept"]) for each in tried} == {2}
    assert not ids_in(tmp_path / "one" / "validation") & ids_in(tmp_path / "one")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["kept=8"], "kept=8: leave it out; budget=flops:0.4 decides it"),
        (["agg_layer=2"], "agg_layer=2: leave it out; the search chooses it"),
        (["budget=null"], "budget=null: a search needs one, such as budget=flops:0.4"),
        (["budget=flops:0.01"], "budget=flops:0.01: method 'fps' cannot reach it"),
        (["search.trials=0"], "search.trials=0: must be an integer from 1 to 10000"),
        (["search.trails=3"], "search.trails: unknown key; keys of search are trials, "),
        (["method=full"], "method=full: has no number of kept tokens to search for"),
        (["hydra/sweeper=basic"], "hydra/sweeper=basic: the whole grid runs in one process; leave this out"),
    ],
)
def test_a_mistake_is_one_line(given, said, tmp_path, capsys):
    assert main([*given, f"output_dir={tmp_path}", "logger=none", "search.limit=2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}"), error
    assert error.count("\n") == 1


def test_without_the_sweeper_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(sweeper, "find_spec", lambda name: None)
    assert main(["budget=flops:0.4"]) == 2
    assert "pip install 'tokensel[search]'" in capsys.readouterr().err
    assert importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


def test_the_file_and_the_declaration_have_the_same_defaults():
    written = OmegaConf.load(CONF / "search.yaml")["search"]
    assert dict(written) == {name: field.default for name, field in SearchSettings.model_fields.items()}


def test_help_lists_every_setting(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"search.{name}=" in printed for name in SearchSettings.model_fields)
