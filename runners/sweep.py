"""The sweep: what visual-token reduction costs in accuracy and saves in time, over a grid of settings.

    python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun
    python -m runners.sweep method=fps kept=16 method.start=peripheral agg_layer=4
    python -m runners.sweep data=easy_vqa method=tome kept=8,64 limit=null logger=none --multirun
    python -m runners.sweep method=my_method.py:MyMethod,fps kept=8,16 --multirun
    python -m runners.sweep experiment=quick

Ends with a table: each point's accuracy with its interval, compared with fastv and random at the same kept, the full
model and no image at all, beside measured speed-up, FLOPs and KV-cache bytes. The same figures are in summary.json, and
in a last line of JSON where standard output is no terminal (json=true or json=false decides it). Started again, it
computes only what is missing. Settings: --help, conf/sweep.yaml.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.sweeping.run import FILES, Finished, run_sweep
from runners.terminal.program import importing, start

if TYPE_CHECKING:
    from runners.configuration.compose import Command

CONF = Path(__file__).resolve().parent.parent / "conf"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep with these arguments (default: the command line's). Returns the exit status.

    0: all points are complete. 1: some failed. 2: a mistake in the settings or the data. 130: interrupted.
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
    from runners.configuration.help import print_help

    if command.help:
        print_help(CONF)
        return 0
    if command.show:
        print_configuration(jobs_of(command))
        return 0
    from runners.terminal.progress import SweepProgress

    with warnings.catch_warnings():
        # One line, without the place in our code that raised it.
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        with SweepProgress("reading the settings") as progress:
            finished = run_sweep(jobs_of(command), progress)
        return report(finished, command.json)


def jobs_of(command: "Command") -> list[dict[str, Any]]:
    """The settings of each job of the grid, not checked yet. Loads the user's methods that the command names."""
    from runners.configuration.compose import compose_jobs
    from runners.configuration.methods import offer_methods

    return compose_jobs(replace(command, overrides=offer_methods(command.overrides, CONF)), CONF)


def report(finished: Finished, json: bool | None) -> int:
    """Prints the table and the points that failed, and the summary as JSON if wanted. Returns the exit status."""
    from runners.terminal.output import print_record
    from runners.terminal.table import print_table

    print_table(finished.rows)
    for line in finished.summary["failed"]:
        print(f"failed: {line}", file=sys.stderr)
    if finished.summary["failed"]:
        print(f"Tracebacks are in {finished.log}", file=sys.stderr)
    folder = finished.folder
    print(f"Files in {folder}: {', '.join(FILES)}, logs")
    print(f"One page of it all: python -m runners.report {shlex.quote(str(folder))}")
    print_record(finished.summary, json)
    return 1 if finished.summary["failed"] else 0


def print_configuration(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Prints the first job's configuration as YAML, as --cfg job does in other Hydra programs."""
    import yaml

    print(yaml.safe_dump(dict(jobs[0]), sort_keys=False), end="")


if __name__ == "__main__":
    start(main)
