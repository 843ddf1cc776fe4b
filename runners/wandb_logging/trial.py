"""The trial of a W&B sweep that an agent started this process for. See conf/wandb_sweep.yaml."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")


class _HasSettings(Protocol):
    settings: dict[str, Any]


Point = TypeVar("Point", bound=_HasSettings)


@dataclass(frozen=True)
class Trial:
    """One trial of a W&B sweep.

    run        the id that W&B gave to its run
    sweep      the id of the W&B sweep
    assigned   the values that the agent chose, by key
    """

    run: str
    sweep: str
    project: str | None
    entity: str | None
    assigned: Mapping[str, Any]

    def find_own(self, points: Sequence[Point]) -> Point:
        """The point that the agent assigned: the one of these (it and its controls) that matches the most values."""
        return max(
            points, key=lambda point: sum(point.settings.get(key) == value for key, value in self.assigned.items())
        )


def current_trial() -> Trial | None:
    """The trial that this process runs; None if no agent started it."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not sweep or not run:
        return None
    return Trial(
        run=run,
        sweep=sweep,
        project=os.environ.get("WANDB_PROJECT"),
        entity=os.environ.get("WANDB_ENTITY"),
        assigned=_assigned(os.environ.get("WANDB_SWEEP_PARAM_PATH", "")),
    )


@contextmanager
def outside_the_trial() -> Iterator[None]:
    """Runs started inside the block are independent; otherwise W&B would write them all into the trial's run."""
    import wandb

    hidden = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        if hidden:
            wandb.teardown()  # W&B reads the environment only once
        yield
    finally:
        os.environ.update(hidden)


def _assigned(path: str) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {key: entry["value"] for key, entry in entries.items() if isinstance(entry, dict) and "value" in entry}
