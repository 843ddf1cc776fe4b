"""The curves of a training in W&B: one run, whose steps are the training's looks at its validation questions."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners.wandb_logging.destination import Destination
from runners.wandb_logging.runs import Run, run_id
from runners.wandb_logging.starting import environment_for, start_run
from tokensel.errors import first_line, printable

_PROJECT = "tokensel"


@contextmanager
def curves_of(folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A run while the block lasts; what it yields logs a record, whose "step" is the run's.

    folder: the training's; W&B's files go to wandb/ in it. config: the training's settings, by which its run is known.
    The run is online where somebody is logged in. A W&B that fails is noted in one line, and stops no training.
    """
    run: Any = None

    def log(record: Mapping[str, Any]) -> None:
        figures = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}
        if run is not None:
            with _noting():
                run.log(figures, step=record["step"])

    with environment_for(folder):
        with _noting():
            import wandb

            options = {"project": _PROJECT, "entity": None, "mode": None, "pictures": 0}
            destination = Destination.from_options(options, None)
            folder.mkdir(parents=True, exist_ok=True)
            run = start_run(wandb, _run(folder, config, destination), folder, destination, "allow")
        try:
            yield log
        finally:
            if run is not None:
                with _noting():
                    run.finish()


@contextmanager
def _noting() -> Iterator[None]:
    """Notes in one line whatever W&B raises in the block."""
    try:
        yield
    except Exception as error:
        print(f"note: logger=wandb: {printable(first_line(error))}; the training goes on", file=sys.stderr)


def _run(folder: Path, config: Mapping[str, Any], destination: Destination) -> Run:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Run(
        id=run_id(digest, destination.project),
        name=folder.name,
        group="train_aggregator",
        job_type="training",
        config=dict(config),
        record=folder / "wandb.json",
        content=digest,
        values=lambda wandb: {},
    )
