"""How a command runs as a program: alone, and ending in one line whatever it is interrupted at."""

import atexit
import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

from runners.terminal.interrupt import INTERRUPTED, on_interrupt, state

# Variables by which torchrun, accelerate launch, mpirun and srun tell a process that it is one of several.
_LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# How a write fails for want of room; the file of a failed write is known to Python only when it is opened.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FILES = 65536
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


def start(main: Callable[[], int]) -> NoReturn:
    """Runs a command as this process's program, and exits with its status.

    An interrupt raises KeyboardInterrupt, which commands turn into a line of theirs; while libraries are imported, and
    after the command has ended, it exits at once. A reader that closes standard output ends the command quietly, and a
    full disk behind it ends the command in one line.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # what starts commands in the background may close them
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    signal.signal(signal.SIGINT, on_interrupt)
    _allow_files()
    state["importing"] = False
    status = 2 if _refused(os.environ) else _status_of(main)
    signal.signal(signal.SIGINT, lambda *_: os._exit(status))
    if status == INTERRUPTED:
        # Without waiting for other libraries' threads; and Python itself may exit as if killed by the signal.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


@contextmanager
def importing() -> Iterator[None]:
    """For imports that take long. They make no garbage, and looking for it takes a second; and many libraries cannot
    be interrupted halfway without errors of their own."""
    before = state["importing"]
    collecting = gc.isenabled()
    gc.disable()
    state["importing"] = True
    try:
        yield
        gc.freeze()
    finally:
        state["importing"] = before
        if collecting:
            gc.enable()


def _status_of(main: Callable[[], int]) -> int:
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        _drop_output()
        print(f"error: cannot write ({error.strerror}); what was computed is stored", file=sys.stderr)
        return 2
    except BaseException:
        # Libraries may turn the KeyboardInterrupt into an error of their own.
        if not state["interrupted"]:
            raise
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _allow_files() -> None:
    """Lets the process open _FILES files, if it may: a sweep keeps one open for each of its points, and the usual limit
    is 1024."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        with suppress(OSError, ValueError):  # macOS names a limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _drop_output() -> None:
    """Python would complain once more, as it ends, about what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as one of several; then says so, once for all of them."""
    name = launched_by(environment)
    if name is not None and all(environment.get(rank, "0") == "0" for rank in _RANKS):
        print(
            f"error: {name}={environment[name]}: set by torchrun, accelerate launch or another launcher; a command is "
            "one process: start it with python -m or tokensel",
            file=sys.stderr,
        )
    return name is not None


def launched_by(environment: Mapping[str, str]) -> str | None:
    """The variable that shows that a launcher of several processes started this one; None if none does."""
    for name in _COUNTS:
        if environment.get(name, "1") not in ("", "1"):
            return name
    return next((name for name in _LAUNCHED if environment.get(name)), None)
