"""Runs in W&B while their points are computed, against a stand-in for W&B: what is logged when, and that no failure of
W&B at any call stops a sweep or prints more than one line."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
import wandb
from helpers.report import write_point, write_questions

from runners.wandb_logging import live as wandb_live
from runners.wandb_logging.live import LiveRuns, Progress, gpu_figures
from runners.wandb_logging.logger import log_sweep
from runners.wandb_logging.runs import run_id
from runners.wandb_logging.starting import finish_limits
from runners.wandb_logging.stored import stored_points
from tokensel.data import load_questions

OPTIONS = {"project": "tokensel", "entity": None, "mode": "offline", "pictures": 0}


class StandIn:
    """In place of a run. fails: the call that raises."""

    def __init__(self, arguments, fails):
        self.arguments, self.fails = arguments, fails
        self.logged, self.metrics, self.known = [], [], dict(arguments["config"])
        self.summary, self.exit_code = {}, None
        self.config = SimpleNamespace(update=self.update)

    def _call(self, name):
        if self.fails == name:
            raise wandb.errors.CommError(f"{name}: the server is on fire")

    def update(self, values, allow_val_change):
        assert allow_val_change
        self._call("config")
        self.known |= values

    def define_metric(self, name, step_metric=None):
        self._call("define_metric")
        self.metrics.append((name, step_metric))

    def log(self, values):
        self._call("log")
        self.logged.append(values)

    def log_artifact(self, artifact):
        self._call("log_artifact")

    def finish(self, exit_code=0):
        self._call("finish")
        self.exit_code = exit_code


@pytest.fixture
def begin(monkeypatch):
    """Replaces W&B. Returns a function that takes the call which is to fail, and returns the list of runs started."""
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)

    def start(fails=""):
        runs = []

        def init(**arguments):
            if fails == "init":
                raise wandb.errors.CommError("init: the server is on fire")
            runs.append(StandIn(arguments, fails))
            return runs[-1]

        monkeypatch.setattr(wandb, "init", init)
        return runs

    monkeypatch.setattr(wandb_live, "LOG_SECONDS", 0.01)
    return start


@pytest.fixture
def points(tmp_path):
    """Two finished points of 10 questions, as W&B gets them."""
    data = write_questions(tmp_path / "data", 10)
    asked = load_questions("question_file", **data["options"])
    for method, kept in (("full", None), ("fps", 4)):
        write_point(tmp_path / "sweep", data, asked, method, kept, 0.7)
    return stored_points(tmp_path / "sweep")


def live_of(points, tmp_path, **options):
    known = {point.key: {"device": "NVIDIA H100", "batch_size": 4} for point in points}
    return LiveRuns(points, points, tmp_path / "sweep", OPTIONS | options, "sweep", known)


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def answered_later(point, first):
    """Takes all but the first answers out of a point's folder; returns a function that puts so many back."""
    file = point.store.folder / "predictions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:first]))
    left = lines[first:]

    def answer(count):
        with file.open("a") as opened:
            opened.write("".join(left[:count]))
        del left[:count]

    return answer, [json.loads(line)["correct"] for line in lines]


def test_a_run_exists_from_its_points_start_and_shows_the_progress(begin, points, tmp_path):
    runs = begin()
    answer, correct = answered_later(points[0], first=4)
    with live_of(points, tmp_path) as live:
        wait_for(lambda: len(runs) == 2)
        assert all(not run.logged for run in runs)
        answer(3)
        wait_for(lambda: runs[0].logged)
    own = runs[0].arguments
    assert (own["id"], own["group"], own["job_type"]) == (run_id(points[0].key, "tokensel"), "sweep", "point")
    assert (own["resume"], own["reinit"]) == ("allow", "create_new")
    assert {points[0].settings["method"], "question_file", "letter", "tiny"} <= set(own["tags"])
    assert (runs[0].known["batch_size"], runs[0].known["device"]) == (4, "NVIDIA H100")
    assert runs[0].metrics == [("progress/questions", None), ("progress/*", "progress/questions")]
    (step,) = runs[0].logged
    assert step["progress/questions"] == 7
    assert step["progress/accuracy"] == pytest.approx(sum(correct[:7]) / 7)
    assert step["progress/questions_per_second"] > 0
    assert not runs[1].logged, "it answered nothing meanwhile"

    answer(3)
    log_sweep(points, tmp_path / "sweep", OPTIONS, "sweep", live=live)
    assert len(runs) == 2, "the last step goes to the runs that exist"
    assert runs[0].logged[1]["progress/questions"] == 10
    assert runs[0].logged[2]["accuracy"] == points[0].metrics["accuracy"]
    assert runs[0].known["device"] == points[0].metrics["provenance"]["device"]
    assert [run.exit_code for run in runs] == [0, 0]
    assert live.started == {}


@pytest.mark.parametrize("call", ["init", "define_metric", "config", "log", "finish"])
def test_a_failure_of_any_call_is_one_line(begin, points, tmp_path, capsys, call):
    begin(call)
    answer, _ = answered_later(points[0], first=4)
    with live_of(points, tmp_path) as live:
        answer(6)
    assert log_sweep(points, tmp_path / "sweep", OPTIONS, "sweep", live=live) == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"note: W&B could not log ({call}: the server is on fire); the files are complete, "
        f"python -m runners.sync {tmp_path / 'sweep'} pushes them later\n"
    )


def test_an_interrupted_sweep_and_a_failed_point_mark_their_runs(begin, points, tmp_path):
    runs = begin()
    points[1].error = "RuntimeError: no memory, token=abc"

    def interrupted():
        with live_of(points, tmp_path):
            wait_for(lambda: len(runs) == 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [run.exit_code for run in runs] == [1, 1]
    assert [run.summary["error"] for run in runs] == ["interrupted", "RuntimeError: no memory, token=***"]


def test_nothing_is_started_where_wandb_is_disabled_or_nothing_is_open(begin, points, tmp_path):
    runs = begin()
    with live_of(points, tmp_path, mode="disabled"):
        time.sleep(0.05)
    with LiveRuns([], points, tmp_path, OPTIONS, "sweep", {}):
        pass
    assert runs == []


def test_a_line_counts_once_it_is_whole(points):
    answer, _ = answered_later(points[0], first=1)
    progress = Progress(points[0])
    assert progress.read() == {}
    file = points[0].store.folder / "predictions.jsonl"
    whole = file.read_text()
    answer(1)
    second = file.read_text().removeprefix(whole)
    file.write_text(whole + second[:9])
    assert progress.read() == {}
    file.write_text(whole + second)
    assert progress.read()["progress/questions"] == 2


def test_figures_of_a_gpu_are_logged_where_there_is_one(monkeypatch):
    if not torch.cuda.is_available():
        assert gpu_figures() == {}
    values = {"is_available": True, "is_initialized": True, "memory_allocated": 3 * 2**20}
    values |= {"max_memory_allocated": 5 * 2**20, "utilization": 40}
    for name, value in values.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert gpu_figures() == {"gpu_memory_mib": 3, "gpu_peak_memory_mib": 5, "gpu_percent": 40}

    def unknown():
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", unknown)
    assert gpu_figures() == {"gpu_memory_mib": 3, "gpu_peak_memory_mib": 5}


def test_a_wandb_without_a_limit_for_finishing_is_given_few_tries():
    old = SimpleNamespace(Settings=SimpleNamespace(model_fields={"init_timeout": None}))
    limits = finish_limits(old)
    assert limits.keys() <= wandb.Settings.model_fields.keys()
    assert {name for name, value in limits.items() if value == 1} == {
        "x_graphql_retry_max", "x_file_stream_retry_max", "x_file_transfer_retry_max",
    }  # fmt: skip
