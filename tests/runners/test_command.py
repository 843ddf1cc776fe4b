"""What every command does alike: --help prints its docstring, and a mistake is one line."""

import pytest

from runners import bench, dashboard, report, show, sync
from runners.terminal.command import run_command
from tokensel import TokenselError


@pytest.mark.parametrize("command", [bench, dashboard, report, show, sync])
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
