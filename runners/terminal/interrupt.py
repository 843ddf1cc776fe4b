"""What Ctrl-C does. Imports little, because an interrupt before `end_at_interrupt` prints Python's own traceback."""

import os
import signal

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
        # Not by sys.stderr, which a progress bar may have replaced. On a terminal, the bar and ^C stand in this line,
        # and the cursor is hidden.
        before = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{before}interrupted: nothing was computed\n".encode())
        os._exit(INTERRUPTED)
    state["interrupted"] = True
    raise KeyboardInterrupt
