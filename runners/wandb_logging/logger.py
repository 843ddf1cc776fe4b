"""W&B: one run per grid point of a finished sweep, and one with the sweep's figures. Nothing that W&B does, or fails
to do, hurts the sweep.

A run's id is made of its point's key and the project, so logging a point again replaces its run. Without a login
everything goes to files below the sweep's folder, which `python -m runners.sync` or `wandb sync` pushes later.
"""

import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageOps

from runners.wandb_logging.trial import Trial, current_trial, outside_the_trial
from tokensel.data import Question
from tokensel.errors import BadSampleError
from tokensel.evaluation.provenance import scrub
from tokensel.evaluation.store import PointStore

# Seconds that W&B may take, for one run and for all: beyond that the rest is left out.
RUN_SECONDS = 20.0
SWEEP_SECONDS = 120.0
TABLE_ROWS = 200
_MARK = "wandb.json"
_PICTURE_SIDE = 336
_SECRET_NAME = re.compile(r"(api_?key|token|secret|passw(or)?d)$", re.IGNORECASE)
_NO_FIGURES = ("key", "provenance", "questions")


class Point(Protocol):
    """What is logged of a grid point; `tokensel.evaluation.sweep.work.PointWork` says what each means."""

    key: str
    store: PointStore
    settings: dict[str, Any]
    asked: list[Question]
    metrics: dict[str, Any] | None
    error: str

    def rows(self, questions: list[Question]) -> list[dict[str, Any]]: ...


def log_sweep(
    points: Sequence[Point], folder: Path, options: dict[str, Any], name: str, again: bool = False
) -> list[str]:
    """Logs every finished point that was not logged with these figures before. Never raises; says once what failed.

    folder: the sweep's, which gets wandb/. options: project, entity, mode, pictures of conf/logger. name: the group.
    again: also what was logged before, however long it takes. Returns the ids of the runs that were written.
    """
    done: list[str] = []
    try:
        trial = current_trial()
        place = _Place.of(options, trial)
        if place.mode == "disabled":
            return done
        runs = [run for run in _runs(points, folder, place, trial, name) if again or not run.is_logged(place)]
        if runs:
            with _environment(folder):
                for run in _written(runs, folder, place, math.inf if again else SWEEP_SECONDS):
                    done.append(run.id)
    except Exception as error:  # W&B raises many kinds; a sweep outlives all of them
        lines = str(error).splitlines() or [type(error).__name__]
        later = f"python -m runners.sync {folder} pushes them later"
        print(f"note: W&B could not log ({scrub(lines[0])}); the files are complete, {later}", file=sys.stderr)
    return done


def logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or where `wandb login` puts it. Asks no server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        return bool(read_netrc_auth(host=os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url))
    except wandb.errors.AuthenticationError:  # what is there is no key
        return False


def run_id(key: str, project: str) -> str:
    """The id of a point's run in a project: the same whenever and from wherever it is pushed."""
    return f"{key}-{hashlib.sha256(project.encode()).hexdigest()[:6]}"


def project_of(points: Sequence[Point]) -> str | None:
    """The one project that points were logged to, online or offline; None if there are several or none."""
    projects = {_read_mark(point.store.folder / _MARK).get("project") for point in points} - {None}
    return projects.pop() if len(projects) == 1 else None


@dataclass(frozen=True)
class _Place:
    """Where runs go. mode: online, offline or disabled."""

    project: str
    entity: str | None
    mode: str
    pictures: int
    group: str | None = None

    @classmethod
    def of(cls, options: dict[str, Any], trial: Trial | None) -> "_Place":
        mode = options["mode"] or os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        project, entity = options["project"], options["entity"]
        if trial:  # all that an agent's job logs goes where its sweep is
            project, entity = trial.project or project, trial.entity or entity
        return cls(project, entity, mode, options["pictures"], trial.sweep if trial else None)


@dataclass(frozen=True)
class _Run:
    """A run to be written. mark: the file that tells what of it was logged; content: a digest of all there is to log;
    row: the one row of its history, made of the wandb module; in_trial: it is the one that a W&B agent waits for."""

    id: str
    name: str
    group: str
    job_type: str
    config: dict[str, Any]
    mark: Path
    content: str
    row: Callable[[Any], dict[str, Any]]
    in_trial: bool = False

    def is_logged(self, place: _Place) -> bool:
        """Whether W&B has just this; a file that waits for its upload only counts while offline."""
        known = _read_mark(self.mark)
        wanted = self.marked(place)
        if known.get("mode") == "online":
            wanted["mode"] = "online"
        return known == wanted

    def marked(self, place: _Place) -> dict[str, Any]:
        where = {"id": self.id, "project": place.project, "entity": place.entity, "mode": place.mode}
        return where | {"content": self.content}


def _runs(points: Sequence[Point], folder: Path, place: _Place, trial: Trial | None, name: str) -> list[_Run]:
    """Of every finished point, the trial's own first; then of the figures, which a trial has none worth keeping of."""
    own = trial.its_own(points) if trial and points else None
    finished = [point for point in points if point.metrics is not None and not point.error]
    runs = [
        _point_run(point, place, name, trial.run if trial and point is own else None)
        for point in sorted(finished, key=lambda point: point is not own)
    ]
    figures = [] if trial else sorted(folder.glob("*.png"))
    return [*runs, _figures_run(figures, folder, place, name)] if figures and runs else runs


def _point_run(point: Point, place: _Place, name: str, trial: str | None) -> _Run:
    settings, mark = point.settings, point.store.folder / _MARK
    known = _read_mark(mark)
    if (known.get("project"), known.get("entity")) != (place.project, place.entity):
        known = {}
    metrics = {key: value for key, value in (point.metrics or {}).items() if key != "provenance"}
    return _Run(
        # A trial's point has the id that W&B gave it, also when it is pushed again without the agent.
        id=trial or known.get("id") or run_id(point.key, place.project),
        name=settings["method"] if settings["kept"] is None else f"{settings['method']}-{settings['kept']}",
        group=place.group or name,
        job_type="point",
        config=_without_secrets(settings),
        mark=mark,
        content=_digest(json.dumps([metrics, place.pictures], sort_keys=True).encode()),
        row=lambda wandb: _figures(point) | _predictions(wandb, point, place.pictures),
        in_trial=trial is not None,
    )


def _figures_run(figures: list[Path], folder: Path, place: _Place, name: str) -> _Run:
    return _Run(
        id=run_id(f"sweep-{_digest(name.encode())}", place.project),
        name=f"{name}, figures",
        group=name,
        job_type="sweep",
        config={"sweep": name},
        mark=folder / _MARK,
        content=_digest(b"".join(path.name.encode() + path.read_bytes() for path in figures)),
        row=lambda wandb: {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures},
    )


def _written(runs: Sequence[_Run], folder: Path, place: _Place, seconds: float) -> Iterator[_Run]:
    """Writes one run after the other. Raises whatever W&B raises, and TimeoutError after so many seconds."""
    import wandb

    began = time.monotonic()
    for run in runs:
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not done after {seconds:.0f} s")
        with nullcontext() if run.in_trial else outside_the_trial():
            _write(wandb, run, folder, place)
        run.mark.write_text(json.dumps(run.marked(place)))
        yield run


def _write(wandb: Any, run: _Run, folder: Path, place: _Place) -> None:
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
    begun = wandb.init(
        project=place.project,
        entity=place.entity,
        dir=str(folder.absolute()),
        id=run.id,  # without resume=, a run of this id is replaced: its history stays one row
        group=run.group,
        job_type=run.job_type,
        name=run.name,
        config=run.config,
        mode=place.mode,
        reinit="finish_previous",
        settings=settings,
    )
    begun.log(run.row(wandb))
    begun.finish()


def _figures(point: Point) -> dict[str, Any]:
    """The numbers, nested ones as name_part: the columns of results.parquet. kept is a number for full as well."""
    metrics = point.metrics or {}
    figures: dict[str, Any] = {}
    for key, value in metrics.items():
        if key in point.settings or key in _NO_FIGURES:
            continue
        parts = {f"{key}_{part}": figure for part, figure in value.items()} if isinstance(value, dict) else {key: value}
        figures |= {name: figure for name, figure in parts.items() if isinstance(figure, int | float)}
    kept = point.settings["kept"]
    return figures | {"kept": _visual_tokens(point) if kept is None else kept}


def _predictions(wandb: Any, point: Point, pictures: int) -> dict[str, Any]:
    """A table of predictions, and the pictures in it: those with stored positions first, and what was kept of them."""
    asked = {question.id: question for question in point.asked}
    # full and no_image have no positions; the same few questions are pictured for every point.
    sample = {question.id for question in point.asked[:pictures]}
    rows = sorted(point.rows(point.asked), key=lambda row: (row["id"] not in sample, row["id"]))
    table = wandb.Table(columns=["id", "question", "choices", "answer", "prediction", "correct", "margin", "picture"])
    drawings = []
    for place, row in enumerate(rows[:TABLE_ROWS]):
        question = asked[row["id"]]
        predicted = None if row["prediction"] is None else question.choices[row["prediction"]]
        picture = None
        if place < pictures:
            kept = [] if point.settings["method"] == "no_image" else row.get("positions")
            if drawn := draw_kept(question, kept, _visual_tokens(point)):
                picture = wandb.Image(drawn, caption=f"{question.text} {predicted}")
                drawings.append(picture)
        table.add_data(
            question.id,
            question.text,
            " | ".join(question.choices),
            question.choices[question.answer],
            predicted,
            bool(row["correct"]),
            row.get("margin"),
            picture,
        )
    return {"predictions": table} | ({"kept_tokens": drawings} if drawings else {})


def draw_kept(question: Question, positions: list[int] | None, visual_tokens: int) -> Image.Image | None:
    """The picture as the model sees it (cut to a square), all but the kept visual tokens darkened.

    positions: indices into the square grid of visual_tokens; None: everything was kept. None for a picture
    that cannot be read, or whose visual tokens are no square grid.
    """
    side = math.isqrt(visual_tokens)
    if side == 0 or side * side != visual_tokens or question.image is None:
        return None
    try:
        picture = ImageOps.fit(question.load_image(), (_PICTURE_SIDE, _PICTURE_SIDE))
    except BadSampleError:
        return None
    if positions is None:
        return picture
    kept = Image.new("L", (side, side), 70)
    for position in positions:
        kept.putpixel((position % side, position // side), 255)
    mask = kept.resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.new("RGB", picture.size), mask)


def _visual_tokens(point: Point) -> int:
    return (point.metrics or {})["provenance"]["protocol"]["visual_tokens"]


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return "***" if _SECRET_NAME.search(name) else scrub(value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _read_mark(path: Path) -> dict[str, Any]:
    try:
        mark = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """W&B without its lines on the terminal, and with pictures to upload beside the run, not in the user's home."""
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
