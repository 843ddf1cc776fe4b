"""What the page's scripts read: rows, questions and answers, packed so that a large report still opens at once."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.report.evaluation import Evaluation, Row
from analysis.report.pictures import GALLERY_SIDE, THUMBNAIL_SIDE, Pictures, encode_pictures
from tokensel.data import Question

# In the place of a choice; the same codes as in dom.js.
UNREADABLE, SKIPPED, NOT_ASKED = 255, 254, 253
MAX_GALLERY = 24
GALLERY_BYTES = 3_000_000
_TEXTS = ("text", "hint", "family", "topic", "subject")


@dataclass
class QuestionSet:
    """The questions of one data set, numbered: the order that all of its points' answers are packed in."""

    ids: list[str]
    known: Mapping[str, Question]
    answers: Mapping[str, int]
    missing: str
    number: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.number = {id: place for place, id in enumerate(self.ids)}


def question_set(evaluations: Sequence[Evaluation]) -> QuestionSet:
    """The questions that any row of these evaluations, which share a data set, answered."""
    known = {question.id: question for evaluation in evaluations for question in evaluation.questions}
    answers: dict[str, int] = {}
    for evaluation in evaluations:
        for row in evaluation.rows:
            if len(row.answers):
                answers |= dict(zip(row.answers["id"].tolist(), row.answers["answer"].tolist(), strict=True))
    # In the data set's order; those it does not know after them.
    ids = [id for id in known if id in answers] + sorted(id for id in answers if id not in known)
    missing = next((evaluation.missing for evaluation in evaluations if evaluation.missing), "")
    return QuestionSet(ids, known, answers, missing)


def pack_answers(row: Row, questions: QuestionSet) -> dict[str, str]:
    """predictions: a byte per question; correct: a bit per question, lowest first. Both in base64."""
    choices = np.full(len(questions.ids), NOT_ASKED, dtype=np.uint8)
    right = np.zeros(len(questions.ids), dtype=bool)
    if len(row.answers):
        places = [questions.number[id] for id in row.answers["id"]]
        skipped = row.answers["skipped"].to_numpy(dtype=bool)
        choices[places] = np.where(
            skipped, SKIPPED, row.answers["prediction"].fillna(UNREADABLE).to_numpy(dtype=np.int64)
        )
        right[places] = row.answers["correct"].to_numpy(dtype=bool) & ~skipped
    return {
        "predictions": _base64(choices.tobytes()),
        "correct": _base64(np.packbits(right, bitorder="little").tobytes()),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pack_row(row: Row, questions: QuestionSet, look: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the scripts know it. figures: all numbers of the point; look: its color, marker and dash."""
    figures = {
        name: value
        for name, value in row.point.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("kept", "seed")
    }
    short = {"difference": "points", "diff_low": "low", "diff_high": "high", "p_value": "p", "p_holm": "p_holm"}
    versus = {name: {short.get(key, key): value for key, value in found.items()} for name, found in row.versus.items()}
    packed = {
        "key": row.point["key"],
        "method": row.method,
        "label": row.label,
        "series": row.series,
        "kept": row.kept,
        "status": row.status,
        "control": row.is_control,
        "figures": figures,
        "versus": versus,
        **look,
    }
    if row.is_complete:
        packed |= pack_answers(row, questions)
        packed["positions"] = _positions(row, questions)
    return packed


def _positions(row: Row, questions: QuestionSet) -> dict[str, list[int]] | None:
    """The stored survivors by the question's number; None where the point stored none."""
    stored = row.answers.dropna(subset="positions") if len(row.answers) else row.answers
    if not len(stored):
        return None
    pairs = zip(stored["id"], stored["positions"], strict=True)
    return {str(questions.number[id]): [int(place) for place in places] for id, places in pairs}


def pack_set(questions: QuestionSet, gallery: Pictures, thumbnails: Pictures) -> dict[str, Any]:
    """The questions as columns, and their pictures by number."""
    asked = [questions.known.get(id) for id in questions.ids]
    columns = {name: [getattr(question, name) if question else "" for question in asked] for name in _TEXTS}
    by_number = [
        {str(questions.number[id]): uri for id, uri in pictures.uris.items()} for pictures in (gallery, thumbnails)
    ]
    return {
        "id": questions.ids,
        **columns,
        "choices": [list(question.choices) if question else [] for question in asked],
        "answer": [questions.answers[id] for id in questions.ids],
        "pictures": by_number[0],
        "thumbnails": by_number[1],
        "no_picture": questions.missing or _why_none(thumbnails),
    }


def _why_none(thumbnails: Pictures) -> str:
    if thumbnails.lost:
        return f"Its picture is not in this page. {len(thumbnails.lost)} could not be read, the first: " + next(
            iter(thumbnails.lost.values())
        )
    return "Its picture is not in this page, which holds those of the questions that methods disagree on most."


def contested(evaluations: Sequence[Evaluation], questions: QuestionSet) -> list[str]:
    """The ids, those that as many points have right as wrong first: nothing is learned from one that all have right."""
    right, asked = np.zeros(len(questions.ids)), np.zeros(len(questions.ids))
    for evaluation in evaluations:
        for row in evaluation.complete:
            places = [questions.number[id] for id in row.answers["id"]]
            right[places] += row.answers["correct"].to_numpy(dtype=bool)
            asked[places] += 1
    share = right / np.maximum(asked, 1)
    return [questions.ids[place] for place in np.argsort(-share * (1 - share), kind="stable")]


def gallery_ids(evaluation: Evaluation, order: Sequence[str]) -> list[str]:
    """The questions of which survivors are stored, in this order; at most MAX_GALLERY."""
    stored = {
        id for row in evaluation.complete if len(row.answers) for id in row.answers.dropna(subset="positions")["id"]
    }
    return [id for id in order if id in stored][:MAX_GALLERY]


def square_side(evaluation: Evaluation) -> int | None:
    """Rows and columns of a picture's visual tokens; None where they are no square, or not the same for all points."""
    count = evaluation.visual_tokens or 0
    side = math.isqrt(count)
    return side if side and side * side == count else None


def gallery_pictures(ids: Sequence[str], questions: QuestionSet, image_aspect: str | None) -> Pictures:
    """The pictures that survivors are drawn on, as the model saw them."""
    return encode_pictures(
        ids, questions.known, side=GALLERY_SIDE, budget_bytes=GALLERY_BYTES, image_aspect=image_aspect, seen=True
    )


def thumbnails(ids: Sequence[str], questions: QuestionSet, budget_bytes: int) -> Pictures:
    """Small pictures for the list of questions."""
    return encode_pictures(ids, questions.known, side=THUMBNAIL_SIDE, budget_bytes=budget_bytes)
