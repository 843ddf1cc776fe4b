"""What Ctrl-C does. Imports little, because an interrupt before `end_at_interrupt` prints Python's own traceback."""

import os
import signal
import sys

INTERRUPTED = 130
# importing: whether an interrupt ends the process at once. interrupted: whether one came when it does not.
state = {"importing": False, "interrupted": False}


def end_at_interrupt() -> None:
    """Until `runners.terminal.program.start`, an interrupt prints one line and ends the process at once."""
    state["importing"] = True
    signal.signal(signal.SIGINT, on_interrupt)


def on_interrupt(*_: object) -> None:
    """The handler of SIGINT: raises KeyboardInterrupt, or ends the process while libraries are imported."""
    if state["importing"]:
        # On a terminal, ^C stands at the beginning of the line, and a progress bar hides the cursor.
        before = "\x1b[?25h\n" if sys.stderr.isatty() else ""
        print(f"{before}interrupted: nothing was computed", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)
    state["interrupted"] = True
    raise KeyboardInterrupt
