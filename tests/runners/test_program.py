"""A command as a program: alone, quick where nothing is to be loaded, and ending in one line at every interrupt."""

import gc
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runners.terminal import interrupt, program
from runners.terminal.program import importing, launched_by, start

REPOSITORY = Path(__file__).parents[2]
INTERRUPTS_ITSELF = """
import os, signal
from runners.terminal.program import importing, start

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

"""
LOADS_NOTHING = """
import sys
from runners.__main__ import COMMANDS, main

for name in COMMANDS:
    try:
        status = main([name, "--help"])
    except SystemExit as leaving:
        status = leaving.code
    assert status == 0, name
for mistake in {mistakes}:
    assert main(["sweep", mistake]) == 2, mistake
heavy = {{"torch", "transformers", "pandas", "wandb", "matplotlib", "datasets"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
MISTAKES = {
    "metod=fps": "error: metod: unknown key; keys are name, ",
    "method=fpss": "error: method=fpss: unknown; choose one of ",
    "scoring=leter": "error: scoring=leter: choose one of letter, generate; did you mean letter?",
    "latency.repeat=3": "error: latency.repeat: unknown key; keys of latency are ",
    "data.spilt=test": "error: data.spilt: unknown key; options of data are, by choice, ",
    "limit=many": "error: limit=many: must be an integer from 1",
    "hydra/launcher=joblib": "error: hydra/launcher=joblib: the whole grid runs in one process; leave this out",
}


def run(source, **options):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, **options)


def test_help_and_mistakes_load_no_large_library_and_say_what_was_meant():
    done = run(LOADS_NOTHING.format(mistakes=list(MISTAKES)))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(MISTAKES)
    for line, expected in zip(lines, MISTAKES.values(), strict=True):
        assert line.startswith(expected)
    ends = ("did you mean method?", "did you mean fps?", "did you mean letter?", "did you mean repeats?")
    for line, end in zip(lines, ends, strict=False):
        assert line.endswith(end)


@pytest.mark.parametrize(
    ("main", "said"),
    [
        ("with importing(): interrupt()", "interrupted: nothing was computed\n"),
        ("try: interrupt()\n    except KeyboardInterrupt: raise ImportError('halfway')", "interrupted\n"),
    ],
)
def test_an_interrupt_while_libraries_load_is_one_line(main, said):
    done = run(f"{INTERRUPTS_ITSELF}def main():\n    {main}\nstart(main)")
    assert (done.returncode, done.stderr) == (130, said)


def test_an_interrupt_before_the_command_is_imported_is_one_line():
    source = "import sys; sys.argv = ['-m']; import runners; import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    done = run(source)
    assert (done.returncode, done.stderr) == (130, "interrupted: nothing was computed\n")


def test_an_error_that_no_interrupt_caused_keeps_its_traceback():
    done = run("from runners.terminal.program import start\nstart(lambda: 1 / 0)")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_has_enough_ends_the_command_quietly():
    source = "from runners.terminal.program import start\nstart(lambda: print('x' * 1_000_000) or 0)"
    done = run(f"import os; os.close(1); os.dup2(os.pipe()[1], 1); os.close(3)\n{source}")
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_behind_standard_output_ends_the_command_in_one_line():
    source = "from runners.terminal.program import start\nstart(lambda: print('x' * 1_000_000) or 0)"
    done = run(f"import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n{source}")
    assert done.returncode == 2
    assert done.stderr == "error: cannot write (No space left on device); what was computed is stored\n"


def test_a_command_runs_with_its_outputs_closed():
    source = (
        "from runners.terminal.program import start\nstart(lambda: print('text', flush=True) or sys.stdout.isatty())"
    )
    assert run(f"import sys; sys.stdout = sys.stderr = None\n{source}").returncode == 0


def test_importing_collects_no_garbage_and_restores_what_was():
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert interrupt.state["importing"]
    assert gc.isenabled()
    assert not interrupt.state["importing"]


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, "LOCAL_RANK"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, "ACCELERATE_MIXED_PRECISION"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "PMI_SIZE"),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({}, None),
    ],
)
def test_a_process_knows_that_a_launcher_started_it(environment, variable):
    assert launched_by(environment) == variable


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_a_launched_command_runs_nothing_and_its_first_process_says_why(monkeypatch, capsys, rank, lines):
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)
    for name, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as leaving:
        start(lambda: pytest.fail("ran the command"))
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == lines
    assert error.startswith("error: WORLD_SIZE=2: set by torchrun" if lines else "")


@pytest.mark.parametrize(
    ("limit", "most", "then"),
    [(1024, 4096, 4096), (1024, 1 << 30, 65536), (1024, resource.RLIM_INFINITY, 65536), (100_000, 1 << 30, 100_000)],
)
def test_a_program_may_open_more_files_than_most_shells_allow(monkeypatch, limit, most, then):
    limits = {resource.RLIMIT_NOFILE: (limit, most)}
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    program._allow_files()
    assert limits == {resource.RLIMIT_NOFILE: (then, most)}
