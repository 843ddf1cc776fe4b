"""What all commands do in the same way: --help prints the usage, a mistake or an interrupt ends in one line."""

import sys
from collections.abc import Callable, Sequence

from runners.terminal.interrupt import INTERRUPTED
from runners.terminal.notes import notes
from tokensel.errors import TokenselError, printable


def run_command(
    usage: str | None,
    argv: Sequence[str] | None,
    work: Callable[[list[str]], int],
    interrupted: str = "interrupted: nothing was written",
) -> int:
    """Calls `work` with the arguments and returns its exit status.

    usage: the command's docstring, printed for -h and --help, with status 0. argv: None takes the command line's
    arguments. A TokenselError is printed as one line to standard error, with status 2; so is `interrupted` at an
    interrupt, with status 130. Warnings are notes, see `runners.terminal.notes`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print((usage or "").strip())
        return 0
    try:
        with notes():
            return work(arguments)
    except TokenselError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
