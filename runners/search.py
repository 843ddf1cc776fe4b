"""The search: at which layers, to how many tokens, and at what temperature to reduce, at a given cost.

    python -m runners.search budget=flops:0.4
    python -m runners.search budget=average_tokens:200 method=fps,tome search.trials=60
    python -m runners.search budget=flops:0.4 temperature=0.1 search.stages=2 aggregation=mean logger=none

Hydra's Optuna sweeper proposes trials of one to three stages; each costs what the budget says, and is answered on
validation questions, which the test never uses. The best few are then answered on the test's questions, once, beside
the method's own one-stage rule at the same budget and the sweep's controls. Started again, it computes only what is
missing. Needs hydra-optuna-sweeper: pip install 'tokensel[search]'.

Ends with a table, with validation and test apart; the same figures are in search.json, and in a last line of JSON where
standard output is no terminal. All settings of the sweep can be given, see python -m runners.sweep --help; kept and
agg_layer are searched. A list of values, such as method=fps,tome, is searched too.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runners.terminal.program import importing, start

if TYPE_CHECKING:
    from runners.configuration.compose import Command

CONF = Path(__file__).resolve().parent.parent / "conf"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the search with these arguments (default: the command line's). Returns the exit status.

    0: all is complete. 1: some points failed. 2: a mistake in the settings or the data. 130: interrupted.
    """
    with importing():
        from runners.configuration.compose import read_command
        from runners.configuration.errors import USER_ERRORS, one_line
    try:
        return _run(read_command(sys.argv[1:] if argv is None else argv))
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {one_line(error, CONF)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was computed is stored; the same command continues from there", file=sys.stderr)
        return 130


def _run(command: "Command") -> int:
    from runners.searching.output import print_help, report

    if command.help:
        print_help(__doc__ or "")
        return 0
    from runners.configuration.methods import offer_methods
    from runners.searching.run import run_search
    from runners.searching.sweeper import check_installed
    from runners.terminal.progress import SweepProgress

    check_installed()
    command = replace(command, overrides=offer_methods(command.overrides, CONF))
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        with SweepProgress("reading the settings") as progress:
            found = run_search(command, CONF, progress)
        return report(found, command.json)


if __name__ == "__main__":
    start(main)
