"""Messages survive every way they travel; real workers, forked from this process, answer as one process does, also when
they are killed."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.forks import start_fork

from runners.sweep import main
from tokensel.data.protocol import Protocol
from tokensel.errors import TokenselError
from tokensel.evaluation.failure import Failure
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.stored import read_points
from tokensel.evaluation.sweep.computers import _job_parameters
from tokensel.evaluation.sweep.groups import WorkersSettings
from tokensel.evaluation.workers import local, ray_actors, slurm_jobs
from tokensel.evaluation.workers.answering import Answering
from tokensel.evaluation.workers.mailbox import Lines, add_line
from tokensel.evaluation.workers.spec import (
    Answered,
    Hello,
    PassSpec,
    PointSpec,
    Refusal,
    Task,
    Timed,
    TimingTask,
    as_json,
    from_json,
)

POINTS = [
    PointSpec("aa", GridPoint("fps", kept="25%", agg_layer=2, method_options={"start": None}), "code"),
    PointSpec("bb", GridPoint("pyramiddrop", kept=(288, 72, 0.05), agg_layer=(2, 8, 16)), "code", "/x/m.py:Mine"),
]
MESSAGES = [
    PassSpec({"path": "tiny"}, None, Protocol(), "mme", {"path": "/x", "n": 3}, 7, "digest", POINTS, positions=8),
    Task(3, 1, {"aa": ["q é", "r\n"]}),
    TimingTask(4, ["aa"], "q", {"repeats": 2, "compiled": True}, threads=2),
    Hello("name", 3, "cpu (x86_64)", {"versions": {"torch": "2"}, "gpus": None}),
    Answered(3, {"aa": {"q é": '{"id": "q é"}\n'}}, {"bb": Failure("ValueError: no", "Trace\n  line")}, {"z": "bad"}),
    Timed(4, True, 2.5, {"aa": {"prefill_ms": {"p50": 1.5}, "speedup": 1.0}}, {"bb": Failure("no")}, {"decode": "why"}),
    Timed(4, False, 0.5),
    Refusal("model.path=x: no such folder"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_are_the_same_after_json(message):
    line = as_json(message)
    assert b"\n" not in line
    assert from_json(line) == message


@pytest.mark.parametrize("line", [b"", b"{", b'{"Other":{}}', b'{"Task":{"number":"x"}}', b'{"Task":', b"null"])
def test_other_lines_are_no_messages(line):
    with pytest.raises(ValueError, match=r"."):
        from_json(line)


def test_a_mailbox_gives_whole_lines_once_and_ends_broken_ones(tmp_path):
    path = tmp_path / "inbox.jsonl"
    lines = Lines(path)
    assert list(lines.new()) == []
    add_line(path, b"one")
    with path.open("ab") as file:
        file.write(b"half of t")  # its writer was killed
    assert list(lines.new()) == [b"one"]
    add_line(path, b"two")
    assert list(lines.new()) == [b"half of t", b"two"]
    assert list(lines.new()) == []


def serve(descriptor):
    sys.argv = ["worker", str(descriptor)]
    local.main()


class Forked(local._Process):
    """A worker's process that is a fork: a new interpreter would import torch for seconds."""

    def __init__(self, log, environment):
        self.pipe, theirs = Pipe()
        self.log = log
        descriptor = os.dup(theirs.fileno())  # one that the Connection does not close
        theirs.close()
        self.child = start_fork(self.run, descriptor, self.pipe.fileno())
        os.close(descriptor)

    @staticmethod
    def run(descriptor, other_end):
        os.close(other_end)
        serve(descriptor)

    def end(self):
        self.pipe.close()
        self.child.kill()
        self.child.join()
        return f"signal {-(self.child.exitcode or 0)}"


GRID = ["kept=4", "method=fps", "controls=[full,downsample]", "limit=7", "batch_size=1", "logger=none"]


def swept(folder, *more):
    status = main([*GRID, f"output_dir={folder}", *more])
    return status, {path.parent.name: path.read_bytes() for path in folder.glob("sweep/*/predictions.jsonl")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    status, found = swept(tmp_path_factory.mktemp("one"), "latency.repeats=0")
    assert status == 0
    assert len(found) == 3
    return found


@pytest.fixture
def forked(undrawn, monkeypatch):
    monkeypatch.setattr(local, "_Process", Forked)


@pytest.mark.slow
def test_workers_give_the_files_of_one_process_and_times(expected, forked, tmp_path, capsys):
    status, found = swept(tmp_path, "workers=local", "latency.repeats=1", "latency.warmup=0")
    assert status == 0
    assert found == expected
    for point in read_points(tmp_path / "sweep"):
        assert point.metrics["prefill_ms"]["p50"] > 0
        about = point.metrics["provenance"]
        assert about["workers"] == {"name": "local", "devices": {about["device"]: 2}}
        assert point.metrics["flops"] > 0


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_and_doubles_nothing(expected, forked, tmp_path, capsys, monkeypatch):
    received, answers, killed = Connection.recv, [], []

    def recv(pipe):
        reply = received(pipe)
        if isinstance(reply, Answered):  # in the driver, which then kills a worker
            answers.append(reply)
            if len(answers) in (2, 5):
                victim = Forked.alive.pop()
                os.kill(victim.child.pid, signal.SIGKILL)
                killed.append(victim)
        return reply

    made = Forked.__init__

    def remembered(self, *arguments):
        made(self, *arguments)
        Forked.alive.append(self)

    Forked.alive = []
    monkeypatch.setattr(Forked, "__init__", remembered)
    monkeypatch.setattr(Connection, "recv", recv)
    status, found = swept(tmp_path, "workers=local", "latency.repeats=0")
    assert status == 0
    assert len(killed) == 2
    assert found == expected
    assert "ended (signal 9); what it had begun is done again" in capsys.readouterr().err


@pytest.mark.slow
def test_the_figures_of_answers_that_an_earlier_start_has_stored_name_a_worker(expected, forked, tmp_path, capsys):
    assert swept(tmp_path, "workers=local", "latency.repeats=0")[0] == 0
    folder = tmp_path / "sweep" / next(iter(expected))
    before = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    assert swept(tmp_path, "workers=local", "latency.repeats=0")[0] == 0
    after = json.loads((folder / "metrics.json").read_text())
    assert after["provenance"]["device"] == before["provenance"]["device"]
    assert after["provenance"]["versions"] == before["provenance"]["versions"]
    assert after["flops"] == before["flops"]


@pytest.mark.slow
def test_no_times_are_taken_where_devices_differ(expected, forked, tmp_path, capsys, monkeypatch):
    began = Answering._begin

    def on_another_device(answering, spec):
        hello = began(answering, spec)
        return replace(hello, device=f"GPU {os.getpid()}")

    monkeypatch.setattr(Answering, "_begin", on_another_device)
    status, found = swept(tmp_path, "workers=local", "latency.repeats=1")
    assert status == 0
    assert found == expected
    assert "workers.latency=on: no times, as the workers' devices differ (GPU " in capsys.readouterr().err
    for point in read_points(tmp_path / "sweep"):
        assert not point.metrics["prefill_ms"]
        assert len(point.metrics["provenance"]["workers"]["devices"]) == 2


def test_workers_that_refuse_end_the_command_in_one_line(forked, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tokensel.evaluation.workers.answering.code_digest", lambda *_: "other")
    status, found = swept(tmp_path, "workers=local", "latency.repeats=0")
    assert status == 2
    assert not any(found.values())
    assert "a worker has other code of method" in capsys.readouterr().err


def test_a_worker_that_cannot_start_is_named_with_its_log(tmp_path, capsys, monkeypatch, undrawn):
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    status, _ = swept(tmp_path, "workers=local", "latency.repeats=0")
    assert status == 2
    assert "workers=local: a worker ended while it started (exit status 1); see " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "wanted"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_library_is_named(name, wanted, tmp_path, capsys, monkeypatch, undrawn):
    monkeypatch.setitem(sys.modules, wanted, None)
    status, _ = swept(tmp_path, f"workers={name}", "latency.repeats=0")
    assert status == 2
    assert f'pip install "tokensel[{name}]"' in capsys.readouterr().err


def test_an_address_that_nobody_answers_at_is_refused_at_once():
    pytest.importorskip("ray")
    with pytest.raises(TokenselError, match=r"workers\.address=127\.0\.0\.1:1: no Ray cluster answers"):
        ray_actors.RayCrew(1, Path("x.log"), "127.0.0.1:1", 1, 0)


def test_without_slurm_its_workers_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TokenselError, match=r"workers\.cluster=slurm: "):
        slurm_jobs.SlurmCrew(1, tmp_path, tmp_path / "logs", "slurm", {})


def test_settings_become_the_options_of_a_job():
    settings = WorkersSettings(
        name="slurm", minutes=30, gpus_per_worker=2, cpus_per_worker=8, partition="gpu", more={"qos": "high"}
    )
    found = _job_parameters(settings, on_cpu=False)
    assert (found["timeout_min"], found["gpus_per_node"]) == (30, 2)
    assert found["slurm_partition"] == "gpu"
    assert found["slurm_additional_parameters"] == {"qos": "high"}
    assert _job_parameters(WorkersSettings(name="slurm"), on_cpu=False)["gpus_per_node"] == 1
    assert _job_parameters(WorkersSettings(name="slurm"), on_cpu=True)["gpus_per_node"] == 0
    submitit = pytest.importorskip("submitit")
    executor = submitit.SlurmExecutor.__new__(submitit.SlurmExecutor)
    equal = {name.removeprefix("slurm_") for name in found}
    assert equal <= {*executor._equivalence_dict(), *submitit.SlurmExecutor._valid_parameters()}


def test_a_worker_that_ray_starts_again_is_called_for_the_pass_that_it_is_wanted_for():
    called, killed = [], []

    def actor(worker):
        return SimpleNamespace(
            handle=SimpleNamespace(remote=lambda message: called.append((worker, message)) or worker)
        )

    crew = object.__new__(ray_actors.RayCrew)
    crew.count, crew.calls, crew.actors = 2, {}, {0: actor(0), 1: actor(1)}
    crew.ray = SimpleNamespace(kill=killed.append, wait=lambda calls, timeout: ([], calls))
    crew.restarting = {0: time.monotonic(), 1: time.monotonic()}  # both died at the end of the pass before
    left = crew.actors[0]
    crew.begin("times", alone=1)
    assert (killed, called) == ([left], [])
    assert crew.wait(0) == []
    assert called == [(1, "times")]
