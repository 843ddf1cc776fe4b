"""What a grid point's run holds: its figures, a table of predictions, and pictures of the kept visual tokens."""

import heapq
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from PIL import Image, ImageOps

from analysis.frames import Sheet
from tokensel.data import NO_CHOICE, Question
from tokensel.errors import BadSampleError
from tokensel.evaluation.marking import share_of
from tokensel.evaluation.provenance import scrub
from tokensel.evaluation.store import PointStore

TABLE_LINES = 200
_PICTURE_SIDE = 336  # pixels
_SECRET_NAME = re.compile(r"(api_?key|token|secret|passw(or)?d)$", re.IGNORECASE)
_NOT_FIGURES = ("key", "provenance", "questions")


class Point(Protocol):
    """A grid point to log.

    questions   those it answers
    metrics     its stored figures; None if it is not finished
    error       why it failed, or ""
    """

    key: str
    store: PointStore
    settings: dict[str, Any]
    questions: list[Question]
    metrics: dict[str, Any] | None
    error: str


def figures(point: Point) -> dict[str, Any]:
    """The numbers of metrics.json, nested ones as name_part like the columns of results.parquet.

    For method full, `kept` is the number of visual tokens, so that it can be plotted beside the other points; for a
    share and for auto, what was left on average.
    """
    metrics = point.metrics or {}
    numbers: dict[str, Any] = {}
    for key, value in metrics.items():
        if key in point.settings or key in _NOT_FIGURES:
            continue
        parts = {f"{key}_{part}": figure for part, figure in value.items()} if isinstance(value, dict) else {key: value}
        numbers |= {name: figure for name, figure in parts.items() if isinstance(figure, int | float)}
    kept = point.settings["kept"]
    kept = numbers.get("kept_mean", metrics.get("tokens_left")) if isinstance(kept, str) else kept
    return numbers | {"kept": _visual_tokens(point) if kept is None else kept}


def predictions(wandb: Any, point: Point, pictures: int) -> dict[str, Any]:
    """A table of predictions under "predictions", and the table's pictures under "kept_tokens".

    pictures: how many lines have a picture, with the dropped visual tokens darkened.
    """
    questions = {question.id: question for question in point.questions}
    # Every point shows the same questions, although full and no_image store no positions.
    first = {question.id for question in point.questions[:pictures]}
    known = (record for record in point.store.each_prediction() if record["id"] in questions)
    records = heapq.nsmallest(TABLE_LINES, known, key=lambda record: (record["id"] not in first, record["id"]))
    table = wandb.Table(columns=["id", "question", "choices", "answer", "prediction", "correct", "margin", "picture"])
    drawings = []
    for index, record in enumerate(records):
        question = questions[record["id"]]
        choice = record["prediction"]
        predicted = record.get("text") if choice is None or not question.choices else question.choices[choice]
        picture = None
        if index < pictures:
            kept = [] if point.settings["method"] == "no_image" else record.get("positions")
            if drawn := draw_kept(question, kept, _visual_tokens(point), _protocol(point).get("video_grid")):
                picture = wandb.Image(drawn, caption=f"{question.text} {predicted}")
                drawings.append(picture)
        table.add_data(
            question.id,
            question.text,
            " | ".join(question.choices),
            question.choices[question.answer] if question.answer != NO_CHOICE else " | ".join(question.answers),
            predicted,
            share_of(record) if "score" in record else bool(record["correct"]),
            record.get("margin"),
            picture,
        )
    return {"predictions": table} | ({"kept_tokens": drawings} if drawings else {})


def draw_kept(
    question: Question, positions: list[int] | None, visual_tokens: int, video_grid: list[int] | None = None
) -> Image.Image | None:
    """The picture cropped to a square, or a video's frames, with all but the kept visual tokens darkened.

    positions: of the kept tokens in the square grid of visual_tokens, or in the video; None keeps all. video_grid:
    frames, rows and columns of the video's tokens. Returns None if the picture or video cannot be read, or if
    visual_tokens is not a square number.
    """
    sheet = Sheet(*video_grid) if video_grid and question.video else None
    side = math.isqrt(visual_tokens)
    rows, columns = sheet.grid if sheet else (side, side)
    if rows == 0 or (sheet is None and (side * side != visual_tokens or question.image is None)):
        return None
    try:
        if sheet:
            picture = sheet.draw(question.load_frames())
        else:
            picture = ImageOps.fit(question.load_image(), (_PICTURE_SIDE, _PICTURE_SIDE))
    except BadSampleError:
        return None
    if positions is None:
        return picture
    kept = Image.new("L", (columns, rows), 70)
    for position in sheet.places(positions) if sheet else positions:
        kept.putpixel((position % columns, position // columns), 255)
    mask = kept.resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.new("RGB", picture.size), mask)


def without_secrets(value: Any, name: str = "") -> Any:
    """The value without the strings that are secrets, to judge by their key's name or their own text."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return "***" if _SECRET_NAME.search(name) else scrub(value)


def _protocol(point: Point) -> dict[str, Any]:
    return (point.metrics or {})["provenance"]["protocol"]


def _visual_tokens(point: Point) -> int:
    return _protocol(point)["visual_tokens"]
