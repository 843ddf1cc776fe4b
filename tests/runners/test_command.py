"""What every command does alike: --help prints its docstring, and a mistake is one line."""

import logging
import warnings
from pathlib import Path

import pytest

import runners
from runners import bench, dashboard, doctor, report, show, sync, table, verify
from runners.__main__ import COMMANDS
from runners.__main__ import main as tokensel_command
from runners.terminal.command import run_command
from tokensel import TokenselError


@pytest.mark.parametrize("command", [bench, dashboard, doctor, report, show, sync, table, verify])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_prints_the_docstring_and_runs_nothing(command, flag, monkeypatch, capsys):
    monkeypatch.setattr(command, "_run", lambda arguments: pytest.fail("ran the command"))
    assert command.main(["x=y", flag]) == 0
    assert capsys.readouterr().out == (command.__doc__ or "").strip() + "\n"


def test_a_mistake_is_one_line_and_status_2(capsys):
    def fail(arguments):
        raise TokenselError(f"{arguments[0]}: unknown")

    assert run_command("usage", ["x"], fail) == 2
    assert capsys.readouterr() == ("", "error: x: unknown\n")


def test_the_status_is_that_of_the_work(capsys):
    assert run_command("usage", ["x"], lambda arguments: 1) == 1
    assert capsys.readouterr() == ("", "")


def test_tokensel_names_every_command_and_runs_it(monkeypatch, capsys):
    folder = Path(runners.__file__).parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__", "__main__"}
    assert set(COMMANDS) == files
    assert tokensel_command(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"    {name} " in printed for name in COMMANDS)
    assert max(map(len, printed.splitlines())) <= 80
    given = []
    monkeypatch.setattr(report, "main", lambda arguments: given.append(arguments) or 7)
    assert tokensel_command(["report", "outputs/x", "pictures=1"]) == 7
    assert given == [["outputs/x", "pictures=1"]]


def test_tokensel_suggests_the_command_that_was_meant(capsys):
    assert tokensel_command(["swep", "kept=8"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: swep: unknown command; choose from sweep, ")
    assert error.endswith("did you mean sweep?\n")


def test_warnings_are_notes_and_each_is_said_once(capsys):
    def work(arguments):
        for _ in range(2):
            logging.getLogger("tokensel.evaluation.stored").warning("%s: left\nout", "point")
            warnings.warn("kept=900: nothing is removed", stacklevel=1)
        logging.getLogger("tokensel").info("not for the terminal")
        return 0

    for _ in range(2):
        assert run_command("usage", [], work) == 0
        assert capsys.readouterr() == ("", "note: point: left out\nnote: kept=900: nothing is removed\n")
    assert not logging.getLogger("tokensel").handlers
