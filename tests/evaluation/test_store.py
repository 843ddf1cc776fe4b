"""Whatever happens to its process, the store loses at most the line being written and stores no question twice."""

import errno
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tokensel.errors import TokenselError
from tokensel.evaluation.locks import warn_of_no_locks
from tokensel.evaluation.store import PointStore, point_key
from tokensel.evaluation.stored import read_point


def prediction(number: int, **fields) -> dict:
    return {"id": f"q{number}", "prediction": 1, "answer": number % 4, "correct": number % 4 == 1} | fields


def numbers(folder: Path) -> list[int]:
    return [int(record["id"][1:]) for record in PointStore(folder).predictions()]


def child(code: str, folder: Path, **options) -> subprocess.Popen:
    header = f"from tokensel.evaluation.store import PointStore\nstore = PointStore({str(folder)!r})\n"
    # Only the store is needed; importing the whole package, torch included, would take seconds.
    light = (
        "import sys, types; package = types.ModuleType('tokensel'); package.__path__ = "
        f"{[str(Path(__file__).parents[2] / 'tokensel')]!r}; sys.modules['tokensel'] = package\n"
    )
    return subprocess.Popen([sys.executable, "-c", light + header + code], text=True, **options)


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.005)


def test_what_is_written_is_read_back(tmp_path):
    store = PointStore(tmp_path / "sweep" / "point")
    assert store.predictions() == []
    assert store.metrics() is None
    store.write_config({"kept": (8, 16), "method": "fps", "path": Path("a/b")})
    store.append([prediction(0, text="é\n"), prediction(1, margin=np.float32(0.5), positions=np.arange(3))])
    store.append([prediction(2, prediction=None, margin=math.nan)])
    store.write_metrics({"accuracy": 1 / 3, "ci": (0.1, math.inf)})

    again = PointStore(store.folder)
    assert [p["id"] for p in again.predictions()] == ["q0", "q1", "q2"]
    assert again.predictions()[0]["text"] == "é\n"
    assert again.predictions()[1]["margin"] == 0.5
    assert again.predictions()[1]["positions"] == [0, 1, 2]
    assert again.predictions()[2]["margin"] is None
    assert again.metrics() == {"accuracy": 1 / 3, "ci": [0.1, None]}
    config = yaml.safe_load((store.folder / "config.yaml").read_text())
    assert config == {"kept": [8, 16], "method": "fps", "path": "a/b"}


def test_reading_creates_no_files(tmp_path):
    store = PointStore(tmp_path / "point")
    assert store.predictions() == []
    assert store.metrics() is None
    assert not store.folder.exists()


def test_a_question_is_stored_once(tmp_path):
    store = PointStore(tmp_path)
    store.append([prediction(0), prediction(1), prediction(0, prediction=3)])
    store.append([prediction(1, prediction=3), prediction(2)])
    other = PointStore(tmp_path)  # in the same process, which the lock does not exclude
    other.append([prediction(2, prediction=3), prediction(3)])
    store.append([prediction(3, prediction=3), prediction(4)])
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["q0", "q1", "q2", "q3", "q4"]
    assert all(json.loads(line)["prediction"] == 1 for line in lines)
    assert store.done_ids() == {"q0", "q1", "q2", "q3", "q4"}


def test_a_last_line_cut_at_any_byte_is_dropped_and_can_be_appended_again(tmp_path):
    with PointStore(tmp_path) as store:
        store.append([prediction(0), prediction(1, text="é")])
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        file.write_bytes(whole[:cut])
        assert numbers(tmp_path) == [0]
        assert len(file.read_bytes()) == cut, "a reader changes nothing"
        with PointStore(tmp_path) as store:
            assert store.done_ids() == {"q0"}
            assert file.read_bytes() == whole[:first]
            store.append([prediction(0), prediction(1, text="é")])
        assert file.read_bytes() == whole


def test_a_last_line_of_zeros_is_dropped(tmp_path):
    with PointStore(tmp_path) as store:
        store.append([prediction(0)])
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(file.read_bytes() + b"\0" * 40 + b"\n")
    assert PointStore(tmp_path).done_ids() == {"q0"}


def test_a_broken_line_before_the_last_is_named(tmp_path):
    with PointStore(tmp_path) as store:
        store.append([prediction(0), prediction(1), prediction(2)])
    file = tmp_path / "predictions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:9], lines[2]]) + "\n")
    with pytest.raises(TokenselError, match=r"predictions\.jsonl: line 2"):
        PointStore(tmp_path).done_ids()


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "\ud800"},
        {"correct": 1},
        {"prediction": True},
        {"prediction": "A"},  # among answers that are indices
        {"answer": -1},
        {"answer": 2**15},
        {"margin": 10**400},
        {"skipped": 0},
        {"tied_choice": "no"},
        {"positions": [0, "1"]},
        {"positions": {"0": 1}},
        {"kept": {"layer": 3}},
        {"text": 5},
    ],
)
def test_a_line_with_a_field_of_another_kind_is_named(tmp_path, wrong):
    lines = [json.dumps(prediction(number)) for number in range(3)]
    (tmp_path / "predictions.jsonl").write_text(
        "\n".join([lines[0], json.dumps(prediction(1) | wrong), lines[2]]) + "\n"
    )
    with pytest.raises(TokenselError, match=r"predictions\.jsonl: line 2"):
        PointStore(tmp_path).predictions()


@pytest.mark.parametrize("name", ["metrics.json", "predictions.jsonl"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_what_is_no_file_is_named(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(TokenselError, match=rf"{name}: cannot be read \(.*\); move it away"):
        (PointStore(tmp_path).metrics if name == "metrics.json" else PointStore(tmp_path).predictions)()


def test_settings_that_grow_as_they_are_read_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}]" for level in range(1, 40))]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(TokenselError, match=r"config\.yaml: cannot be read"):
        read_point(tmp_path)


def test_half_a_surrogate_pair_in_the_figures_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"n": 1, "provenance": {"command": "\ud800"}}))
    with pytest.raises(TokenselError, match=r"metrics\.json: is not JSON"):
        PointStore(tmp_path).metrics()


@pytest.mark.sampled
@pytest.mark.parametrize("when", [0.0, 0.03, 0.1])
def test_kill_9_loses_nothing_that_append_has_returned_for(tmp_path, when):
    code = """
number = max((int(id[1:]) for id in store.done_ids()), default=-1) + 1
while True:
    store.append([{"id": f"q{n}", "padding": "x" * 5000} for n in range(number, number + 4)])
    number += 4
    print(number, flush=True)
"""
    seen = 0
    for _ in range(2):  # the second start resumes where the first ended
        process = child(code, tmp_path, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(3):
            promised = int(process.stdout.readline())
        time.sleep(when)
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        promised = int(rest[-1]) if rest else promised
        found = numbers(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) >= promised > seen
        seen = promised


def test_a_second_process_is_refused_with_the_folders_name(tmp_path):
    writer = child("store.append([{'id': 'q0'}])\nprint('holds', flush=True)\ninput()", tmp_path, **_PIPES)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "holds\n"
    store = PointStore(tmp_path)
    assert numbers(tmp_path) == [0], "reading needs no lock"
    for write in (store.done_ids, lambda: store.append([prediction(1)]), lambda: store.write_metrics({})):
        with pytest.raises(TokenselError, match=str(tmp_path)):
            write()
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    store.append([prediction(1)])
    assert numbers(tmp_path) == [0, 1]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_written_to_after_one_note(tmp_path, monkeypatch, caplog, number):
    warn_of_no_locks.cache_clear()
    monkeypatch.setattr(fcntl, "lockf", _failing(number))
    for name in ("a", "b"):
        with PointStore(tmp_path / name) as store:
            store.append([prediction(0)])
        assert numbers(tmp_path / name) == [0]
    assert [record.message for record in caplog.records] == [
        "this file system has no locks: do not let two commands write to one folder at the same time"
    ]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EACCES, "another process"), (errno.EAGAIN, "another process"), (errno.EIO, "cannot be locked")],
)
def test_any_other_failure_to_lock_is_refused(tmp_path, monkeypatch, number, message):
    monkeypatch.setattr(fcntl, "lockf", _failing(number))
    with pytest.raises(TokenselError, match=f"^{tmp_path}: {message}"):
        PointStore(tmp_path).append([prediction(0)])
    assert numbers(tmp_path) == []


def _failing(number: int):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    return lockf


_PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def test_close_lets_another_process_write(tmp_path):
    store = PointStore(tmp_path)
    store.append([prediction(0)])
    store.close()
    store.close()
    writer = child("store.append([{'id': 'q1'}])", tmp_path)
    assert writer.wait() == 0
    store.append([prediction(1), prediction(2)])
    assert numbers(tmp_path) == [0, 1, 2]


def test_metrics_are_complete_or_absent(tmp_path):
    code = """
store.write_metrics({"n": 0, "padding": "x" * 100000})
print("written", flush=True)
for n in range(1, 10**9):
    store.write_metrics({"n": n, "padding": "x" * 100000})
"""
    writer = child(code, tmp_path, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    for _ in range(30):
        assert len(PointStore(tmp_path).metrics()["padding"]) == 100000
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert len(PointStore(tmp_path).metrics()["padding"]) == 100000
    PointStore(tmp_path).write_metrics({"n": -1})
    assert PointStore(tmp_path).metrics() == {"n": -1}


def test_a_full_disk_leaves_no_incomplete_line(tmp_path, monkeypatch):
    store = PointStore(tmp_path)
    store.append([prediction(0)])
    whole, write = (tmp_path / "predictions.jsonl").read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
    with pytest.raises(TokenselError, match=r"predictions.jsonl: cannot be written \(no room for .*goes on from it"):
        store.append([prediction(1)])
    monkeypatch.undo()
    assert (tmp_path / "predictions.jsonl").read_bytes() == whole
    store.append([prediction(1)])
    assert numbers(tmp_path) == [0, 1]


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenselError, match="file/point"):
        PointStore(tmp_path / "file" / "point").append([prediction(0)])


def test_point_key_depends_on_values_alone():
    key = point_key({"kept": 8, "temperature": 1.0, "stages": (1, 2), "deep": {"a": None, "b": True}})
    assert key == point_key({"deep": {"b": True, "a": None}, "stages": [1, 2], "temperature": 1, "kept": 8})
    assert len(key) == 12
    assert int(key, 16) >= 0
    others = [
        {"kept": 16},
        {"temperature": 0.1},
        {"deep": {"a": 0, "b": True}},
        {"deep": {"a": None, "b": 1}},
    ]
    base = {"kept": 8, "temperature": 1.0, "stages": (1, 2), "deep": {"a": None, "b": True}}
    assert len({point_key(base | other) for other in others} | {key}) == 5


def test_point_key_is_the_same_in_every_version():
    # With a different rule, results on disk would no longer be found.
    assert point_key({"method": "fps", "kept": 8, "temperature": 0.1}) == "39b05b5871b3"
