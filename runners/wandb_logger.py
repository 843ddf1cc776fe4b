"""W&B: one run per grid point of a finished sweep. Nothing that W&B does, or fails to do, hurts the sweep.

A point's run id is its key, so logging it again updates it. Without a login everything goes to files below
the sweep's folder, which `wandb sync` uploads later.
"""

import json
import math
import netrc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image, ImageOps

from runners.work import PointWork
from tokensel.data import Question
from tokensel.errors import BadSampleError

# Seconds that W&B may take, for one run and for all: beyond that the rest is left out.
RUN_SECONDS = 20.0
SWEEP_SECONDS = 120.0
TABLE_ROWS = 200
_MARK = "wandb.json"
_PICTURE_SIDE = 336


def log_sweep(points: Sequence[PointWork], folder: Path, options: dict[str, Any], name: str) -> None:
    """Logs every finished point that was not logged with these figures before. Never raises; says once what
    failed.

    folder: the sweep's, which gets wandb/. options: project, entity, mode, pictures of conf/logger. name: the
    group.
    """
    todo = [
        point for point in points if point.metrics is not None and not point.error and not _is_logged(point, options)
    ]
    if not todo:
        return
    try:
        with _environment(folder):
            _log(todo, folder, options, name)
    except Exception as error:  # W&B raises many kinds; a sweep outlives all of them
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"note: W&B could not log ({lines[0]}); the files are complete without it", file=sys.stderr)


def logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or where `wandb login` puts it. Asks no server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _log(todo: list[PointWork], folder: Path, options: dict[str, Any], name: str) -> None:
    import wandb

    mode: Any = options["mode"] or os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    began = time.monotonic()
    for point in todo:
        if time.monotonic() - began > SWEEP_SECONDS:
            raise TimeoutError(f"not done after {SWEEP_SECONDS:.0f} s")
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
        run = wandb.init(
            project=options["project"],
            entity=options["entity"],
            dir=str(folder.absolute()),
            id=point.key,
            resume="allow" if mode == "online" else None,
            group=name,
            name=point.point.method if point.point.kept is None else f"{point.point.method}-{point.point.final_kept}",
            config=point.settings,
            mode=mode,
            reinit="finish_previous",
            settings=settings,
        )
        run.log({"predictions": _table(wandb, point, options["pictures"])})
        run.summary.update(_summary(point))
        run.finish()
        (point.store.folder / _MARK).write_text(json.dumps(_mark(point, options)))


def _summary(point: PointWork) -> dict[str, Any]:
    """The figures, nested ones as name.part."""
    summary: dict[str, Any] = {}
    for key, value in (point.metrics or {}).items():
        if key in point.settings or key in ("key", "provenance", "questions"):
            continue
        if isinstance(value, dict):
            summary |= {f"{key}.{part}": figure for part, figure in value.items()}
        elif value is not None:
            summary[key] = value
    return summary


def _table(wandb: Any, point: PointWork, pictures: int) -> Any:
    """Predictions, the ones with stored positions first: those show the picture and what was kept of it."""
    asked = {question.id: question for question in point.asked}
    # full and no_image have no positions; the same few questions are pictured for every point.
    sample = {question.id for question in point.asked[:pictures]}
    rows = sorted(point.rows(point.asked), key=lambda row: (row["id"] not in sample, row["id"]))
    visual_tokens = (point.metrics or {})["provenance"]["protocol"]["visual_tokens"]
    table = wandb.Table(columns=["id", "question", "choices", "answer", "prediction", "correct", "margin", "picture"])
    for place, row in enumerate(rows[:TABLE_ROWS]):
        question = asked[row["id"]]
        picture = None
        if place < pictures:
            kept = [] if point.point.method == "no_image" else row.get("positions")
            drawn = draw_kept(question, kept, visual_tokens)
            picture = None if drawn is None else wandb.Image(drawn)
        predicted = row["prediction"]
        table.add_data(
            question.id,
            question.text,
            " | ".join(question.choices),
            question.choices[question.answer],
            None if predicted is None else question.choices[predicted],
            bool(row["correct"]),
            row.get("margin"),
            picture,
        )
    return table


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


def _mark(point: PointWork, options: dict[str, Any]) -> dict[str, Any]:
    metrics = point.metrics or {}
    return {
        "project": options["project"],
        "entity": options["entity"],
        "questions": metrics.get("questions"),
        "latency": metrics.get("prefill_ms"),
    }


def _is_logged(point: PointWork, options: dict[str, Any]) -> bool:
    try:
        return json.loads((point.store.folder / _MARK).read_text()) == _mark(point, options)
    except (OSError, ValueError):
        return False


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
