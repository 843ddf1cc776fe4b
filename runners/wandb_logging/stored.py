"""Finished grid points read back from a sweep's folders, in the form in which they are logged."""

import json
import logging
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tokensel.data import NO_CHOICE, Question, draw_order, load_questions
from tokensel.data.prompts import LETTERS
from tokensel.errors import TokenselError
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.store import PointStore

_log = logging.getLogger(__name__)


@dataclass
class StoredPoint:
    """A finished grid point; its fields are described at `runners.wandb_logging.content.Point`.

    If the data set is gone or has changed, the `questions` have only their answers' letters.
    """

    key: str
    store: PointStore
    settings: dict[str, Any]
    questions: list[Question]
    metrics: dict[str, Any] | None
    error: str = field(default="", init=False)


def stored_points(folder: Path) -> list[StoredPoint]:
    """The finished grid points at any depth below a folder.

    A point with a damaged file is left out, with a note. Raises TokenselError if none is left.
    """
    points = []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            points.append(_read_point(path.parent))
        except TokenselError as error:
            _log.warning("%s (this point is left out)", error)  # as others say it, so that it is one note
    if not points:
        raise TokenselError(f"{folder}: no finished grid point there; give a sweep's folder, such as outputs/sweep")
    return points


def unfinished_points(folder: Path) -> list[str]:
    """The keys of grid points below a folder that have predictions but no figures yet."""
    started = sorted(path.parent for path in folder.rglob("predictions.jsonl"))
    return [point.name for point in started if not (point / "metrics.json").exists()]


def _read_point(folder: Path) -> StoredPoint:
    store = PointStore(folder)
    metrics = store.metrics()
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        data = settings["data"]
        questions = _questions(data["name"], json.dumps(data["options"], sort_keys=True), data["digest"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TokenselError(f"{folder / 'config.yaml'}: not a grid point's settings; delete that folder") from error
    stored = store.stored_ids()
    asked = [question for question in questions if question.id in stored]
    asked = asked or [_letters_only(record) for record in store.each_prediction()]
    return StoredPoint(folder.name, store, settings, asked, metrics)


@lru_cache(maxsize=4)
def _questions(name: str, options: str, digest: str) -> tuple[Question, ...]:
    """The data set's questions in `draw_order`; empty, with a note, if the data set is gone or has changed."""
    try:
        questions = load_questions(name, **json.loads(options))
        reason = "" if questions_digest(questions) == digest else "its questions have changed since"
    except (TokenselError, OSError, ImportError) as error:
        reason = str(error)
    if reason:
        print(f"note: data={name}: {reason}; predictions are pushed without words and pictures", file=sys.stderr)
        return ()
    return tuple(sorted(questions, key=draw_order))


def _letters_only(record: dict[str, Any]) -> Question:
    """A question made from its stored prediction: no text, and letters instead of choices, if it has any."""
    if record["answer"] is None:
        return Question(record["id"], "", (), NO_CHOICE, image=None, form="text", answers=("",))
    count = 1 + max(record["answer"], record["prediction"] or 0)
    return Question(record["id"], "", tuple(LETTERS[:count]), record["answer"], image=None)
