"""Logs a finished sweep to W&B: one run per grid point, and one with the sweep's figures.

No failure of W&B stops a sweep. A run's id is derived from its point's key and the project, so logging a point again
replaces its run. Without a login everything is written to files below the sweep's folder, which
`python -m runners.sync` or `wandb sync` pushes later.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from runners.wandb_logging.content import Point
from runners.wandb_logging.destination import Destination
from runners.wandb_logging.runs import Run, make_runs
from runners.wandb_logging.trial import current_trial, outside_the_trial
from tokensel.evaluation.provenance import scrub

# Time limits in seconds, for one run and for a whole sweep; runs beyond the limit are left out.
RUN_SECONDS = 20.0
SWEEP_SECONDS = 120.0


def log_sweep(
    points: Sequence[Point], folder: Path, options: dict[str, Any], name: str, again: bool = False
) -> list[str]:
    """Logs every finished point whose current figures were not logged before. Returns the ids of the runs written.

    folder    the sweep's; W&B's files go to wandb/ in it
    options   project, entity, mode and pictures, as in conf/logger
    name      the sweep's, which groups its runs
    again     log everything again, without a time limit

    Never raises: a failure is printed in one line.
    """
    written: list[str] = []
    try:
        trial = current_trial()
        destination = Destination.from_options(options, trial)
        if destination.mode == "disabled":
            return written
        runs = make_runs(points, folder, destination, trial, name)
        runs = [run for run in runs if again or not run.is_logged(destination)]
        if runs:
            with _environment(folder):
                for run in _write_all(runs, folder, destination, math.inf if again else SWEEP_SECONDS):
                    written.append(run.id)
    except Exception as error:  # W&B may raise anything, and no failure of it may stop a sweep
        lines = str(error).splitlines() or [type(error).__name__]
        later = f"python -m runners.sync {folder} pushes them later"
        print(f"note: W&B could not log ({scrub(lines[0])}); the files are complete, {later}", file=sys.stderr)
    return written


def _write_all(runs: Sequence[Run], folder: Path, destination: Destination, seconds: float) -> Iterator[Run]:
    """Writes one run after another, yielding each. Raises whatever W&B raises, and TimeoutError after `seconds`."""
    import wandb

    began = time.monotonic()
    for run in runs:
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not done after {seconds:.0f} s")
        with nullcontext() if run.in_trial else outside_the_trial():
            _write(wandb, run, folder, destination)
        run.record.write_text(json.dumps(run.as_record(destination)))
        yield run


def _write(wandb: Any, run: Run, folder: Path, destination: Destination) -> None:
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=RUN_SECONDS,
        finish_timeout=RUN_SECONDS,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    started = wandb.init(
        project=destination.project,
        entity=destination.entity,
        dir=str(folder.absolute()),
        id=run.id,  # without resume=, a run with this id is replaced, so its history stays one step
        group=run.group,
        job_type=run.job_type,
        name=run.name,
        config=run.config,
        mode=destination.mode,
        reinit="finish_previous",
        settings=settings,
    )
    started.log(run.values(wandb))
    started.finish()


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Silences W&B on the terminal, and keeps pictures to be uploaded below `folder` instead of the user's home."""
    ours = {"WANDB_SILENT": "true", "WANDB_DATA_DIR": str(folder.absolute() / "wandb")}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
