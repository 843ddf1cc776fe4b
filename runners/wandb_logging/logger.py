"""Logs a finished sweep to W&B: one run per grid point, and one with the sweep's table, figures and report.

No failure of W&B stops a sweep. A run's id is derived from its point's key and the project, so logging a point again
replaces its run. Without a login everything is written to files below the sweep's folder, which
`python -m runners.sync` or `wandb sync` pushes later.
"""

import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from runners.wandb_logging.content import Point
from runners.wandb_logging.destination import Destination
from runners.wandb_logging.live import LiveRuns
from runners.wandb_logging.runs import Run, make_runs
from runners.wandb_logging.starting import environment_for, start_run
from runners.wandb_logging.trial import current_trial, outside_the_trial
from tokensel.evaluation.provenance import scrub

# Time limit in seconds for logging a whole sweep at its end; runs beyond it are left out.
SWEEP_SECONDS = 120.0


def log_sweep(
    points: Sequence[Point],
    folder: Path,
    options: dict[str, Any],
    name: str,
    again: bool = False,
    live: LiveRuns | None = None,
) -> list[str]:
    """Logs every finished point whose current figures were not logged before. Returns the ids of the runs written.

    folder    the sweep's; W&B's files go to wandb/ in it
    options   project, entity, mode and pictures, as in conf/logger
    name      the sweep's, which groups its runs
    again     log everything again, without a time limit
    live      the runs that exist since their points' start; they get their last step and are finished

    Never raises: a failure is printed in one line.
    """
    written: list[str] = []
    try:
        if live and live.error:
            raise live.error
        trial = current_trial()
        destination = Destination.from_options(options, trial)
        if destination.mode == "disabled":
            return written
        runs = make_runs(points, folder, destination, trial, name)
        runs = [run for run in runs if again or not run.is_logged(destination)]
        if runs:
            with environment_for(folder):
                for run in _write_all(runs, folder, destination, live, math.inf if again else SWEEP_SECONDS):
                    written.append(run.id)
    except Exception as error:  # W&B may raise anything, and no failure of it may stop a sweep
        lines = str(error).splitlines() or [type(error).__name__]
        later = f"python -m runners.sync {shlex.quote(str(folder))} pushes them later"
        print(f"note: W&B could not log ({scrub(lines[0])}); the files are complete, {later}", file=sys.stderr)
    finally:
        if live:
            live.fail_the_rest()
    return written


def _write_all(
    runs: Sequence[Run], folder: Path, destination: Destination, live: LiveRuns | None, seconds: float
) -> Iterator[Run]:
    """Writes one run after another, yielding each. Raises whatever W&B raises, and TimeoutError after `seconds`."""
    import wandb

    began = time.monotonic()
    for run in runs:
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not done after {seconds:.0f} s")
        with nullcontext() if run.in_trial else outside_the_trial():
            _write(wandb, run, folder, destination, *(live.take(run.point) if live else (None, {})))
        run.record.write_text(json.dumps(run.as_record(destination)))
        yield run


def _write(
    wandb: Any, run: Run, folder: Path, destination: Destination, started: Any, progress: dict[str, Any]
) -> None:
    """Logs a run's last steps and finishes it. started: the W&B run, if it exists since the point's start."""
    if started is None:
        started = start_run(wandb, run, folder, destination)
    else:
        started.config.update(run.config, allow_val_change=True)
    if progress:
        started.log(progress)
    values = run.values(wandb)
    for name, value in list(values.items()):
        if isinstance(value, wandb.Artifact):
            started.log_artifact(values.pop(name))
    started.log(values)
    started.finish()
