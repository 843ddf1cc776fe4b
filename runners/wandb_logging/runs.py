"""The W&B runs of a sweep: one per finished grid point and one with the sweep's figures, each with a fixed id.

A wandb.json beside a point's results records what was logged of it and where.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.wandb_logging.content import Point, figures, predictions, without_secrets
from runners.wandb_logging.destination import Destination
from runners.wandb_logging.trial import Trial

_RECORD = "wandb.json"


@dataclass(frozen=True)
class Run:
    """A run to be written.

    record    the file that says what was logged of this run, and where
    content   a digest of everything there is to log
    values    makes the single step of the run's history from the wandb module
    in_trial  whether this is the run that a W&B agent waits for
    """

    id: str
    name: str
    group: str
    job_type: str
    config: dict[str, Any]
    record: Path
    content: str
    values: Callable[[Any], dict[str, Any]]
    in_trial: bool = False

    def is_logged(self, destination: Destination) -> bool:
        """Whether this content was logged there. Logged offline counts only while the mode is still offline."""
        logged = _read_record(self.record)
        wanted = self.as_record(destination)
        if logged.get("mode") == "online":
            wanted["mode"] = "online"
        return logged == wanted

    def as_record(self, destination: Destination) -> dict[str, Any]:
        """What `record` holds once the run is logged."""
        return {
            "id": self.id,
            "project": destination.project,
            "entity": destination.entity,
            "mode": destination.mode,
            "content": self.content,
        }


def make_runs(
    points: Sequence[Point], folder: Path, destination: Destination, trial: Trial | None, name: str
) -> list[Run]:
    """A run for every finished point, a trial's own first, then one for the sweep's figures, which a trial skips.

    name: the sweep's, which groups the runs.
    """
    own = trial.find_own(points) if trial and points else None
    finished = [point for point in points if point.metrics is not None and not point.error]
    runs = [
        _point_run(point, destination, name, trial.run if trial and point is own else None)
        for point in sorted(finished, key=lambda point: point is not own)
    ]
    pictures = [] if trial else sorted(folder.glob("*.png"))
    return [*runs, _figures_run(pictures, folder, destination, name)] if pictures and runs else runs


def run_id(key: str, project: str) -> str:
    """The id of a point's run in a project: the same whenever and from wherever it is pushed."""
    return f"{key}-{hashlib.sha256(project.encode()).hexdigest()[:6]}"


def project_of(points: Sequence[Point]) -> str | None:
    """The one project that points were logged to, online or offline; None if there are several or none."""
    projects = {_read_record(point.store.folder / _RECORD).get("project") for point in points} - {None}
    return projects.pop() if len(projects) == 1 else None


def _point_run(point: Point, destination: Destination, name: str, trial_run: str | None) -> Run:
    settings, record = point.settings, point.store.folder / _RECORD
    logged = _read_record(record)
    if (logged.get("project"), logged.get("entity")) != (destination.project, destination.entity):
        logged = {}
    metrics = {key: value for key, value in (point.metrics or {}).items() if key != "provenance"}
    return Run(
        # A trial's point keeps the id that W&B gave it, also when it is pushed again without the agent.
        id=trial_run or logged.get("id") or run_id(point.key, destination.project),
        name=settings["method"] if settings["kept"] is None else f"{settings['method']}-{settings['kept']}",
        group=destination.sweep or name,
        job_type="point",
        config=without_secrets(settings),
        record=record,
        content=_digest(json.dumps([metrics, destination.pictures], sort_keys=True).encode()),
        values=lambda wandb: figures(point) | predictions(wandb, point, destination.pictures),
        in_trial=trial_run is not None,
    )


def _figures_run(pictures: list[Path], folder: Path, destination: Destination, name: str) -> Run:
    return Run(
        id=run_id(f"sweep-{_digest(name.encode())}", destination.project),
        name=f"{name}, figures",
        group=name,
        job_type="sweep",
        config={"sweep": name},
        record=folder / _RECORD,
        content=_digest(b"".join(path.name.encode() + path.read_bytes() for path in pictures)),
        values=lambda wandb: {f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures},
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
