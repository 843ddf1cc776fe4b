"""What all commands do in the same way: --help prints the usage, and a mistake ends in one line."""

import sys
from collections.abc import Callable, Sequence

from tokensel.errors import TokenselError


def run_command(usage: str | None, argv: Sequence[str] | None, work: Callable[[list[str]], int]) -> int:
    """Calls `work` with the arguments and returns its exit status.

    usage: the command's docstring, printed for -h and --help, with status 0. argv: None takes the command line's
    arguments. A TokenselError is printed as one line to standard error, with status 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print((usage or "").strip())
        return 0
    try:
        return work(arguments)
    except TokenselError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
