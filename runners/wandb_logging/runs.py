"""The W&B runs of a sweep: one per grid point and one of the whole sweep, each with a fixed id.

A wandb.json beside a point's results records what was logged of it and where.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.wandb_logging.content import Point, figures, predictions, without_secrets
from runners.wandb_logging.destination import Destination
from runners.wandb_logging.summary import files_of, sweep_values
from runners.wandb_logging.trial import Trial
from tokensel.data import data_label

_RECORD = "wandb.json"


@dataclass(frozen=True)
class Run:
    """A run to be written.

    record    the file that says what was logged of this run, and where
    content   a digest of everything there is to log
    values    makes the last step of the run's history from the wandb module
    tags      for filtering in W&B; point: the key of the run's point, or ""
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
    tags: tuple[str, ...] = ()
    point: str = ""
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
    """A run for every finished point, a trial's own first, then one for the whole sweep, which a trial skips.

    name: the sweep's, which groups the runs.
    """
    own = trial.find_own(points) if trial and points else None
    finished = [point for point in points if point.metrics is not None and not point.error]
    runs = [
        point_run(point, destination, name, trial.run if trial and point is own else None)
        for point in sorted(finished, key=lambda point: point is not own)
    ]
    return runs if trial or not runs or not files_of(folder) else [*runs, _sweep_run(runs, folder, destination, name)]


def run_id(key: str, project: str) -> str:
    """The id of a point's run in a project: the same whenever and from wherever it is pushed."""
    return f"{key}-{hashlib.sha256(project.encode()).hexdigest()[:6]}"


def project_of(points: Sequence[Point]) -> str | None:
    """The one project that points were logged to, online or offline; None if there are several or none."""
    projects = {_read_record(point.store.folder / _RECORD).get("project") for point in points} - {None}
    return projects.pop() if len(projects) == 1 else None


def point_run(point: Point, destination: Destination, name: str, trial_run: str | None) -> Run:
    """A point's run, which need not be finished. name: the sweep's; trial_run: the id that a W&B agent gave it."""
    settings, record = point.settings, point.store.folder / _RECORD
    logged = _read_record(record)
    if (logged.get("project"), logged.get("entity")) != (destination.project, destination.entity):
        logged = {}
    metrics = {key: value for key, value in (point.metrics or {}).items() if key != "provenance"}
    return Run(
        # A trial's point keeps the id that W&B gave it, also when it is pushed again without the agent.
        id=trial_run or logged.get("id") or run_id(point.key, destination.project),
        name=_name(settings),
        group=destination.sweep or name,
        job_type="point",
        config=config_of(point),
        record=record,
        content=_digest(json.dumps([metrics, destination.pictures], sort_keys=True).encode()),
        values=lambda wandb: figures(point) | predictions(wandb, point, destination.pictures),
        tags=_tags(settings),
        point=point.key,
        in_trial=trial_run is not None,
    )


def _name(settings: dict[str, Any]) -> str:
    seed = settings.get("seed")
    parts = (settings["method"], settings["kept"], None if seed is None else f"seed{seed}")
    return "-".join(str(part) for part in parts if part is not None)


def config_of(point: Point) -> dict[str, Any]:
    """A run's config: the settings in the point's key, the number of questions as `limit`, and its provenance."""
    metrics = point.metrics or {}
    provenance = metrics.get("provenance") or {}
    about = {name: value for name, value in provenance.items() if name not in ("protocol", "model")}
    protocol = provenance.get("protocol") or {}
    about["limit"] = metrics["n"] + metrics.get("skipped", 0) if metrics else len(point.questions)
    if "batch_size" in protocol:
        about["batch_size"] = protocol["batch_size"]
    about["protocol"] = protocol | (point.settings.get("protocol") or {})
    about["model"] = (provenance.get("model") or {}) | point.settings["model"]
    return without_secrets(point.settings | about)


def _tags(settings: dict[str, Any]) -> tuple[str, ...]:
    """Method, kept, data set, scoring and model, each with at most the 64 characters that W&B allows."""
    model = str(without_secrets(settings["model"]["path"])).rstrip("/").rpartition("/")[2]
    kept = None if settings["kept"] is None else f"kept={settings['kept']}"
    data = data_label(settings["data"]["name"], settings["data"].get("options"))
    named = (settings["method"], kept, data, settings.get("scoring"), model)
    return tuple(str(tag)[:64] for tag in named if tag)


def _sweep_run(runs: Sequence[Run], folder: Path, destination: Destination, name: str) -> Run:
    drawn = [_digest(path.read_bytes()) for path in files_of(folder) if path.suffix == ".png"]
    return Run(
        id=run_id(f"sweep-{_digest(name.encode())}", destination.project),
        name=name,
        group=name,
        job_type="sweep",
        config={"sweep": name, "points": len(runs), **_common(run.config for run in runs)},
        record=folder / _RECORD,
        content=_digest("".join([*(run.content for run in runs), *drawn]).encode()),
        values=lambda wandb: sweep_values(wandb, folder, name, destination.report),
        tags=("sweep", *(tag for tag in runs[0].tags if all(tag in run.tags for run in runs))),
    )


def _common(configs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The entries that are the same in all of these."""
    first, *others = configs
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
