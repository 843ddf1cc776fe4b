"""Points leave a folder only where a condition names them, and after a yes."""

import errno
import json
import os
import sys

import pandas as pd
import pytest
from helpers.results import answers, make_point

from analysis import cache, load_results
from runners.prune import main
from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def folder(tmp_path):
    for method in ("fps", "dart"):
        for kept in (8, 16):
            make_point(tmp_path / "s", method, kept, answers("1100"))
    make_point(tmp_path / "s", "dart", 4, None, error="RuntimeError: no idea")
    make_point(tmp_path / "s", "full", None, answers("1111"))
    return tmp_path / "s"


def left(folder):
    return {(row.method, None if pd.isna(row.kept) else row.kept) for row in load_results(folder).itertuples()}


def test_every_condition_must_be_met_and_one_of_its_values(folder, capsys):
    assert main([str(folder), "--where", "method=dart,tome", "kept=16,4", "--yes"]) == 0
    assert left(folder) == {("fps", 8), ("fps", 16), ("dart", 8), ("full", None)}
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["removed"], len(record["points"])) == (True, 2)
    assert not [key for key in record["points"] if (folder / key).exists()]
    assert set(pd.read_parquet(folder / "results.parquet")["method"]) == {"fps", "dart", "full"}


@pytest.mark.parametrize("condition", ["status=failed", "method=dart kept=4", "error=RuntimeError: no idea"])
def test_failed_points_can_be_removed(folder, condition):
    assert main([str(folder), "--where", *condition.replace(" kept", "|kept").split("|"), "--yes"]) == 0
    assert ("dart", 4) not in left(folder)
    assert len(left(folder)) == 5


def test_a_dry_run_lists_and_removes_nothing(folder, capsys):
    before = left(folder)
    assert main([str(folder), "--where=method=dart", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("dart kept=") == 3
    assert '"removed": false' in printed
    assert left(folder) == before


@pytest.mark.parametrize(("answer", "status", "count"), [("y", 0, 3), ("n", 1, 6), ("", 1, 6)])
def test_it_asks_on_a_terminal(folder, monkeypatch, answer, status, count):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    assert main([str(folder), "--where", "method=dart"]) == status
    assert len(left(folder)) == count


def test_the_last_point_takes_the_cache_with_it(folder):
    assert main([str(folder), "--where", "data=diagrams", "--yes"]) == 0
    assert [path.name for path in folder.iterdir()] == []


def test_points_can_be_removed_to_free_a_full_disk(folder, capsys, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(cache, "replace_file", full)
        assert main([str(folder), "--where", "method=dart", "--yes"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"note: {folder}/results.parquet: cannot be written (No space left on device); ")
    assert printed.err.count("\n") == 1
    assert "3 removed" in printed.out
    assert left(folder) == {("fps", 8), ("fps", 16), ("full", None)}


def test_points_of_earlier_code_can_be_removed(folder):
    make_point(folder, "fps", 8, answers("1111"), code="newer")
    assert main([str(folder), "--where", "superseded=true", "--yes"]) == 0
    frame = load_results(folder)
    assert list(frame.query("method == 'fps' and kept == 8")["code"]) == ["newer"]


def test_a_point_that_is_being_written_stops_all_before_anything_is_removed(folder, capsys, monkeypatch):
    def refuse(self):
        raise TokenselError(f"{self.folder}: another process is writing there; wait for it or stop it")

    monkeypatch.setattr(PointStore, "lock", refuse)
    assert main([str(folder), "--where", "method=dart", "--yes"]) == 2
    assert "another process" in capsys.readouterr().err
    assert len(left(folder)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no folder: give one sweep's folder"),
        (["FOLDER"], "where: missing"),
        (["FOLDER", "--where"], "where: missing"),
        (["FOLDER", "--where", "colour=red"], "colour=red: unknown column; choose from key, folder"),
        (["FOLDER", "--where", "method=dart"], "yes: missing; standard input is no terminal"),
        (["FOLDER/nowhere", "--where", "method=dart"], "no such folder"),
        (["FOLDER/..", "--where", "method=dart"], "holds no grid point"),
    ],
)
def test_a_mistake_is_one_line_and_removes_nothing(folder, capsys, arguments, message):
    assert main([argument.replace("FOLDER", str(folder)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert len(left(folder)) == 6
