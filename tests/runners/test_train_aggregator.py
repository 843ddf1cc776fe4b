"""Training an aggregator: it learns, goes on as if it had never been stopped, and says what is wrong in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.families import load_family

from runners import train_aggregator as command
from runners.training import session
from runners.training.aggregator import CHECKPOINT, Trained, measure, train_aggregator, write_aggregator
from runners.training.lessons import make_lessons, run_reduced
from runners.training.request import read_request
from tokensel import reduce_tokens
from tokensel.data import load_questions
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models.parts import find_parts
from tokensel.training.aggregator import LearnedAggregator, load_aggregator
from tokensel.training.matching import TrainingPlan, distribution_loss, hidden_loss, letters_loss

PLAN = TrainingPlan(steps=8, batch_size=2, evaluate_every=4, rank=2, heads=2, learning_rate=0.03, warmup=2)


@pytest.fixture(scope="module")
def loaded():
    return load_family("llava")


@pytest.fixture(scope="module")
def questions():
    return load_questions("diagrams", limit=4, split="train")


def points(*kept):
    return [GridPoint("fps", each, 1, aggregation="cross_attention") for each in kept]


def lessons_of(loaded, questions, plan=PLAN):
    return make_lessons(loaded, questions, points(3), plan.batch_size, plan.hidden_layer, lambda count: None)


@pytest.fixture(scope="module")
def lessons(loaded, questions):
    return lessons_of(loaded, questions)


def trained_of(loaded, plan=PLAN, kept=(3, 5)):
    return Trained(find_parts(loaded.model), points(*kept), plan)


def train(loaded, lessons, folder, plan=PLAN, stop_after=None, settings=None, report=lambda state, loss: None):
    trained = trained_of(loaded, plan)
    state = train_aggregator(trained, lessons, lessons, folder, settings or {}, report, stop_after)
    return trained, state


def test_lessons_hold_what_the_model_itself_says(loaded, questions, lessons):
    """The full model's logits, and under an aggregator those of the model's own forward."""
    aggregator = LearnedAggregator(loaded.model.config.text_config.hidden_size, rank=2, heads=2, temperature=0.1)
    stages = trained_of(loaded, kept=(3,)).stages(aggregator)[0]
    assert sum(len(lesson.answers) for lesson in lessons) == len(questions) == 4
    ordered = sorted(questions, key=session.draw_order)
    begin = 0
    for lesson in lessons:
        asked = ordered[begin : begin + len(lesson.answers)]
        begin += len(asked)
        inputs = loaded.prepare(asked)
        with torch.no_grad():
            torch.testing.assert_close(lesson.logits, loaded.model(**inputs).logits[:, -1], atol=1e-4, rtol=1e-4)
            settings = {"kept": 3, "agg_layer": 1, "aggregation": "learned", "aggregator": aggregator}
            with reduce_tokens(loaded.model, "fps", **settings):
                wanted = loaded.model(**inputs).logits[:, -1]
        torch.testing.assert_close(
            run_reduced(find_parts(loaded.model), lesson, stages)[0], wanted, atol=1e-4, rtol=1e-4
        )
        assert lesson.answers.tolist() == [each.answer for each in asked]


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"target": "letters"}, marks=pytest.mark.slow),
        pytest.param({"hidden_weight": 1.0, "hidden_layer": 3}, marks=pytest.mark.slow),
    ],
)
def test_some_steps_lower_the_loss_and_change_the_aggregator_alone(loaded, questions, lessons, tmp_path, options):
    plan = replace(PLAN, **options)
    lessons = lessons_of(loaded, questions, plan) if options.get("hidden_layer") else lessons
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    trained, state = train(loaded, lessons, tmp_path, plan)
    assert state.step == 8
    assert [record["step"] for record in state.log] == [0, 4, 8]
    assert state.best_loss < 0.97 * state.log[0]["loss"]
    plain = measure(trained, lessons, trained.stages(None))
    assert plain["loss"] == pytest.approx(state.log[0]["loss"], abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    moved = trained.new_aggregator().state_dict()
    assert all(not torch.equal(value, state.best[name]) for name, value in moved.items())


def test_a_stopped_training_gives_the_same_file(loaded, lessons, tmp_path):
    whole = train(loaded, lessons, tmp_path / "whole")
    train(loaded, lessons, tmp_path / "parts", stop_after=6)  # two steps after a look, which are lost
    seen = []
    parts = train(loaded, lessons, tmp_path / "parts", report=lambda state, loss: seen.append(state.step))
    assert seen == list(range(5, 9))
    assert parts[1].log == whole[1].log
    files = [write_aggregator(*each, tmp_path / name, {"command": "x"}) for each, name in ((whole, "a"), (parts, "b"))]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = train(loaded, lessons, tmp_path / "parts", report=lambda state, loss: pytest.fail("went on"))
    assert again[1].log == whole[1].log


def test_it_ends_early_when_validation_no_longer_improves_and_just_so_if_it_was_stopped(loaded, lessons, tmp_path):
    plan = replace(PLAN, steps=40, learning_rate=1e-9, evaluate_every=1, patience=2)
    _, whole = train(loaded, lessons, tmp_path / "whole", plan)
    assert whole.step == whole.best_step + 2 < 40
    assert whole.waited == 2
    train(loaded, lessons, tmp_path / "parts", plan, stop_after=whole.best_step + 1)
    _, parts = train(loaded, lessons, tmp_path / "parts", plan)
    assert (parts.step, parts.log) == (whole.step, whole.log)


def test_the_file_holds_the_best_parameters_and_not_the_last_ones(loaded, lessons, tmp_path):
    trained, state = train(loaded, lessons, tmp_path, stop_after=4)
    state.best = {name: value + 0.5 for name, value in state.best.items()}
    found = load_aggregator(write_aggregator(trained, state, tmp_path, {})).state_dict()
    assert all(torch.equal(value, state.best[name]) for name, value in found.items())


def test_a_state_of_another_training_or_a_damaged_one_is_refused(loaded, lessons, tmp_path):
    train(loaded, lessons, tmp_path, stop_after=4)
    with pytest.raises(TokenselError, match="is of a training with other settings, questions or model"):
        train(loaded, lessons, tmp_path, replace(PLAN, learning_rate=0.01))
    with pytest.raises(TokenselError, match="is of a training with other settings, questions or model"):
        train(loaded, lessons, tmp_path, settings={"questions": "other"})
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(TokenselError, match=r"checkpoint\.safetensors: is damaged; fresh=true begins anew"):
        train(loaded, lessons, tmp_path)


def test_every_batch_is_met_by_every_kept_once_before_any_comes_again():
    plan = TrainingPlan(seed=3)
    epochs = [[plan.chunk(step, 6) for step in range(begin, begin + 6)] for begin in (0, 6)]
    assert [sorted(each) for each in epochs] == [list(range(6))] * 2
    assert epochs[0] != epochs[1]
    assert plan.rate(0) == pytest.approx(plan.learning_rate / plan.warmup)
    assert plan.rate(plan.steps) == pytest.approx(0)


def test_losses_are_their_formulas():
    student, teacher = torch.randn(2, 6), torch.randn(2, 6)
    for row in range(2):
        p, q = teacher[row].softmax(-1), student[row].softmax(-1)
        assert float(distribution_loss(student, teacher)[row]) == pytest.approx(
            float((p * (p / q).log()).sum()), abs=1e-5
        )
        p, q = teacher[row, [1, 4]].softmax(-1), student[row, [1, 4]].softmax(-1)
        found = letters_loss(student, teacher, [[1, 4], [1, 4]])[row]
        assert float(found) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
    full, real = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    reduced = full.clone()
    reduced[0, 0] *= 2
    reduced[0, 2] = 99  # padding
    wanted = (full[0, 0] ** 2).sum() / (full[0, :2] ** 2).sum()
    assert float(hidden_loss(reduced, full, real)) == pytest.approx(float(wanted), abs=1e-5)


SHORT = ["model=tiny", "kept=3,5", "agg_layer=1", "limit=4", "validation_limit=2", "steps=2", "batch_size=2"]


@pytest.fixture
def small(monkeypatch, loaded):
    monkeypatch.setattr(session, "load_model", lambda **options: loaded)


def test_the_command_prints_a_table_and_its_figures_and_writes_four_files(small, tmp_path, capsys):
    folder = tmp_path / "out"
    assert command.main([*SHORT, f"output_dir={folder}"]) == 0
    *lines, record = capsys.readouterr().out.splitlines()
    assert lines[0] == f"On 2 validation questions, after {json.loads(record)['best_step']} of 2 steps:"
    assert [line.split()[:2] for line in lines[3:7]] == [
        [kept, aggregation] for kept in ("3", "5") for aggregation in ("cross_attention", "learned")
    ]
    assert max(map(len, lines)) <= 80 or str(folder) in max(lines, key=len)
    figures = json.loads(record)
    assert json.loads((folder / "log.json").read_text()) == figures
    assert figures["before"]["loss"] >= figures["after"]["loss"]
    assert figures["command"] == f"python -m runners.train_aggregator {' '.join(SHORT)}"
    assert sorted(file.name for file in folder.iterdir()) == sorted(command.FILES)
    made = load_aggregator(folder / "aggregator.safetensors").made
    assert made["command"] == figures["command"]
    assert made["questions"]["count"] == 4
    assert str(folder) not in json.dumps(made)
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_fresh_begins_anew(small, tmp_path, capsys):
    folder = tmp_path / "out"
    assert command.main([*SHORT, f"output_dir={folder}"]) == 0
    assert command.main([*SHORT, "seed=1", f"output_dir={folder}"]) == 2
    assert "choose another output_dir, or fresh=true" in capsys.readouterr().err
    assert command.main([*SHORT, "seed=1", "fresh=true", f"output_dir={folder}"]) == 0


def test_questions_without_splits_set_some_pictures_aside(tmp_path):
    given = [f"data={'easy_vqa'}", "train_split=null", "validation_split=null", "limit=50", "validation_limit=20"]
    train, validation = session.read_questions(read_request(given))
    assert (len(train), len(validation)) == (50, 20)
    assert not {each.image_id for each in train} & {each.image_id for each in validation}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("kept=0", "kept=0: must be an integer from 1 for method 'fps'"),
        ("kept=", "kept=: give at least one"),
        ("method=pool", "method=pool: leaves nothing to aggregate"),
        ("method=fsp", "method='fsp' is unknown; choose from apet"),
        ("train_split=test", "train_split=test: the test split is for the figures alone"),
        ("validation_split=test", "validation_split=test: the test split is for the figures alone"),
        ("train_split=null", "train_split, validation_split: null for both, or for none"),
        ("train_split=tran", "train_split=tran: unknown; choose one of test, train, validation"),
        ("validation_split=train", "validation_split=train: 600 of its pictures are among those of train_split=train"),
        ("data.split=train", "data.split=train: give train_split and validation_split"),
        ("target=words", "target=words: unknown; choose one of vocabulary, letters"),
        ("learning_rate=0", "learning_rate=0: must be above 0"),
        ("learning_rate=-1", "learning_rate=-1: must be a finite number from 0"),
        ("steps=0", "steps=0: must be an integer from 1"),
        ("hidden_weight=1", "hidden_layer=None: must lie above agg_layer=2 with hidden_weight"),
        ("hidden_weight=1 hidden_layer=9", "hidden_layer=9: must be at most 4, the model's number of layers"),
        ("heads=5", "heads=5, rank=8: heads must divide the model's hidden size 32"),
        ("agg_layer=7", "agg_layer=7: must be from 0 to 4"),
        ("logger=mlflow", "logger=mlflow: unknown; choose one of none, wandb"),
        ("stepps=3", "stepps: unknown key; keys are method, "),
        ("kept 8", "kept: must be KEY=VALUE"),
        ("model.dtype=int8", "model.dtype=int8: choose one of"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(small, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


def test_without_accelerate_it_says_what_to_install(loaded, lessons, tmp_path, monkeypatch):
    monkeypatch.setattr("runners.training.aggregator.importlib.util.find_spec", lambda name: None)
    with pytest.raises(TokenselError, match=r"accelerate: needed to train, .*tokensel\[training\]"):
        train(loaded, lessons, tmp_path)


@pytest.mark.slow
def test_a_training_killed_by_the_system_gives_the_same_file(tmp_path):
    """The embedded model, in processes of their own; the second is killed as soon as it has looked once."""
    arguments = ["limit=8", "validation_limit=4", "steps=6", "batch_size=4", "evaluate_every=2", "kept=8"]
    run = partial(lambda folder: [sys.executable, "-m", "runners.train_aggregator", *arguments, f"output_dir={folder}"])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(run(tmp_path / "whole"), check=True, **quiet)
    started = subprocess.Popen(run(tmp_path / "parts"), **quiet)
    while not (tmp_path / "parts" / CHECKPOINT).exists() and started.poll() is None:
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    subprocess.run(run(tmp_path / "parts"), check=True, **quiet)
    files = [(tmp_path / name / "aggregator.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
