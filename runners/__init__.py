"""Commands: `python -m runners.NAME` or `tokensel NAME`; each reads its arguments, calls the library, and prints."""

import sys

# While Python looks for the module to run with -m, this is its argument: no command has been imported yet, and from
# here on an interrupt ends in one line.
if sys.argv[:1] == ["-m"]:
    from runners.terminal.interrupt import end_at_interrupt

    end_at_interrupt()
