"""Every file of every configuration group composes, says when to choose it, and names settings that the code
knows; the command line makes a grid of them."""

import inspect

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from runners.configuration import compose
from runners.configuration.compose import compose_jobs, read_command
from runners.sweep import CONF, main
from tokensel.data import DATASETS
from tokensel.data.protocol import CHOICES, Protocol
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.sweep.groups import MethodSettings
from tokensel.evaluation.sweep.plan import make_plan
from tokensel.evaluation.sweep.reading import described, read_settings
from tokensel.evaluation.sweep.settings import SweepSettings
from tokensel.methods import METHODS
from tokensel.models import load_model

GROUPS = ("method", "model", "data", "aggregation", "logger", "workers", "experiment")
FILES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
NEEDED = {"model=local": ["model.path=folder"], "data=question_file": ["path=questions.json"]}


def planned(*jobs):
    """The plan of jobs, each given by its overrides, alone or in a list; an experiment's grid counts as several."""
    jobs = [[job] if isinstance(job, str) else job for job in jobs]
    configs = [config for job in jobs for config in compose_jobs(read_command(job), CONF)]
    return make_plan([read_settings(config) for config in configs])


def test_no_file_lies_outside_the_groups():
    listed = {CONF / group / f"{name}.yaml" for group, name in FILES}
    listed |= {CONF / "sweep.yaml", CONF / "search.yaml", CONF / "wandb_sweep.yaml"}
    assert set(CONF.rglob("*.yaml")) == listed


@pytest.mark.sampled
@pytest.mark.parametrize("group", GROUPS[:-1])
def test_every_choice_composes_to_a_plan(group):
    """As one grid of all those that need nothing else."""
    names = [name for each, name in FILES if each == group and f"{group}={name}" not in NEEDED]
    composed = compose_jobs(read_command([f"{group}={','.join(names)}", "--multirun"]), CONF)
    for name, config in zip(names, composed, strict=True):
        assert make_plan([read_settings(config)]).groups[0].points, name


@pytest.mark.parametrize("choice", [*NEEDED, *(f"experiment={name}" for group, name in FILES if group == "experiment")])
def test_every_other_choice_composes_to_a_plan_alone(choice):
    assert planned([choice, *NEEDED.get(choice, [])]).groups[0].points


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_says_when_to_choose_it(group, name):
    comments = [line for line in (CONF / group / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any("Choose it" in line for line in comments)


def test_every_registered_method_and_data_set_has_its_file():
    assert {name for group, name in FILES if group == "method"} >= set(METHODS)
    assert {name for group, name in FILES if group == "data"} == set(DATASETS)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_method_files_hold_the_methods_own_defaults(name):
    from dataclasses import asdict

    options = dict(OmegaConf.load(CONF / "method" / f"{name}.yaml"))
    assert options.pop("name") == name
    defaults = {key: value for key, value in asdict(METHODS[name]()).items() if key != "seed"}
    assert options == defaults


def test_question_file_takes_path_and_image_folder_as_plain_keys_and_as_options():
    plain = planned(["data=question_file", "path=a.json", "image_folder=b"])
    dotted = planned(["data=question_file", "data.path=a.json", "data.image_folder=b"])
    assert plain.groups[0].data == dotted.groups[0].data


def test_model_files_hold_the_arguments_of_load_model_and_the_models_own_protocol():
    own = ["conv", "image_aspect"]
    for file in sorted((CONF / "model").glob("*.yaml")):
        keys = list(OmegaConf.load(file))
        assert sorted(keys) == sorted([*inspect.signature(load_model).parameters, *own]), file.name
        assert keys[-2:] == own


def test_a_models_own_protocol_holds_unless_another_is_chosen():
    (own,) = planned("model=llava_7b").groups
    assert own.protocol == Protocol(conv="vicuna_v1")
    assert not set(own.model) & set(CHOICES)
    (chosen,) = planned(["model=llava_7b", "conv=model", "image_aspect=crop", "prompt=lmms"]).groups
    assert chosen.protocol == Protocol(prompt="lmms", conv="model", image_aspect="crop")
    assert chosen.model == own.model


@pytest.mark.parametrize(("scoring", "count"), [("letter", 1), ("generate", 3)])
def test_a_reading_makes_points_of_its_own_only_where_answers_are_written(scoring, count):
    plan = planned(*([f"scoring={scoring}", f"reading={reading}"] for reading in CHOICES["reading"]))
    assert len(plan.groups) == count
    readings = [group.protocol_settings["reading"] for group in plan.groups]
    assert readings == ([None] if scoring == "letter" else list(CHOICES["reading"]))


def test_the_file_of_defaults_has_the_declared_settings_and_defaults():
    values = OmegaConf.to_container(OmegaConf.load(CONF / "sweep.yaml"))
    del values["defaults"]
    assert values.pop("method") == {"precision": MethodSettings.model_fields["precision"].default}
    declared = {}
    for key, default, _, _ in described():
        group, _, name = key.rpartition(".")
        (declared.setdefault(group, {}) if group else declared)[name] = default
    assert values == declared


def test_every_setting_says_what_it_means_and_what_is_allowed():
    for key, _, meaning, allowed in described():
        assert meaning, key
        assert allowed, key


def test_the_declared_settings_of_a_point_are_those_that_make_its_key():
    fields = SweepSettings.model_fields.items()
    declared = {name for name, field in fields if (field.json_schema_extra or {}).get("scope") == "point"}
    in_key = set(GridPoint("fps", 8).settings()) - {"method", "method_options", "stages"}
    # budget is there as the kept that meets it, scope among the method's options, unless it is the default.
    assert in_key == declared - {"budget", "scope"}
    assert GridPoint("fps", 8, scope="frame").settings()["method_options"]["scope"] == "frame"
    assert "scope" not in GridPoint("fps", 8).settings()["method_options"]
    assert all(SweepSettings.model_fields[name].json_schema_extra["in_key"] for name in declared - {"budget"})


def jobs(*arguments):
    return compose_jobs(read_command(arguments), CONF)


def overrides_of(arguments):
    """Each cell's own command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        found = compose._cells(read_command(arguments), parser, compose._Composer())
    return [[override.input_line for override in cell if override.key_or_group != "experiment"] for cell in found]


def cells(*arguments):
    return [(job["method"]["name"], job["kept"], job["temperature"]) for job in jobs(*arguments)]


def test_a_grid_is_a_loop_over_its_keys_in_the_order_given():
    expected = [("fps", 8, 0.1), ("fps", 16, 0.1), ("tome", 8, 0.1), ("tome", 16, 0.1)]
    assert cells("method=fps,tome", "kept=8,16", "--multirun") == expected
    assert cells("--multirun", "method=fps,tome", "kept=8,16") == expected
    assert cells("-m", "method=fps", "kept=range(8,17,8)", "temperature=choice(0.1,0.2)") == [
        ("fps", 8, 0.1), ("fps", 8, 0.2), ("fps", 16, 0.1), ("fps", 16, 0.2)]  # fmt: skip


def test_an_experiment_brings_its_grid_and_what_is_typed_wins():
    assert cells("experiment=quick") == [("fps", 8, 0.1), ("tome", 8, 0.1), ("fps", 64, 0.1), ("tome", 64, 0.1)]
    assert cells("experiment=quick", "kept=4") == [("fps", 4, 0.1), ("tome", 4, 0.1)]
    assert cells("experiment=quick", "method=dart,fastv", "kept=4") == [("dart", 4, 0.1), ("fastv", 4, 0.1)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["kept=8,16"], "kept=8,16: a list of values is a grid; add --multirun"),
        (["hydra/launcher=joblib"], "hydra/launcher=joblib: the whole grid runs in one process"),
        (["hydra.sweep.dir=x", "-m"], "hydra.sweep.dir=x: the whole grid runs in one process"),
        (["kept=interval(1,3)", "-m"], "kept=interval(1,3): has no list of values"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--cfg", "all"], "invalid choice: 'all'"),
    ],
)
def test_a_command_line_that_makes_no_grid_is_refused_by_name(arguments, named):
    with pytest.raises(TokenselError) as raised:
        jobs(*arguments)
    assert named in str(raised.value)


def test_files_of_a_users_own_folder_are_choices_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nname: mine\nkept: 5\n")
    (job,) = jobs("experiment=mine", "--config-dir", str(tmp_path))
    assert (job["name"], job["kept"]) == ("mine", 5)


def test_the_help_page_names_every_setting_group_and_choice(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for key, _, _, _ in described():
        assert key in out
    for group, name in FILES:
        assert group in out
        assert name in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["method=fps,tome", "kept=4,8", "model.dtype=float16", "latency.repeats=0", "-m"],
        ["method=fps", "method.start=medoid,0,null", "kept=[4,2]", "agg_layer=[1,2]", "-m"],
        ["data=question_file,diagrams", "limit=3,null", "'controls=[full],[]'", "-m"],
    ],
)
def test_every_job_is_as_hydra_composes_it_alone(arguments):
    arguments = [argument.strip("'") for argument in arguments]
    for job, cell in zip(jobs(*arguments), overrides_of(arguments), strict=True):
        assert [job] == jobs(*cell)
