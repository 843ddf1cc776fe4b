"""Packs rows, questions and answers for the page's scripts, compactly, so that a large report opens quickly."""

import base64
import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from analysis.frames import Sheet
from analysis.report.evaluation import Evaluation, TableRow
from analysis.report.pictures import (
    GALLERY_SIDE,
    THUMBNAIL_SIDE,
    Pictures,
    encode_pictures,
    seen_by_model,
)
from tokensel.data import Question, draw_order, stable_hash
from tokensel.evaluation.stored_answers import StoredAnswers

# Codes that replace the index of a choice; dom.js has the same ones.
UNREADABLE, SKIPPED, NOT_EVALUATED = 255, 254, 253
MAX_GALLERY = 24
GALLERY_BYTES = 3_000_000
# Of the questions' texts and answers; more make the page slow to open and to search.
MAX_QUESTIONS = 20_000
QUESTION_BYTES = 8_000_000
NO_ANSWER = -2  # to a question that no point was asked; -1: the right choice is unknown
_TEXTS = ("text", "hint", "family", "topic", "subject")


@dataclass
class QuestionSet:
    """The questions of one data set that the page contains, in the order in which the answers of its points are packed.

    ids         of the questions
    known       by id, the questions that could be loaded
    answers     by id, the index of the right choice
    missing     why questions could not be loaded, or ""
    asked       how many questions the points answered: the page contains all of them, or a sample
    number      by id, its index in ids
    """

    ids: list[str]
    known: Mapping[str, Question]
    answers: Mapping[str, int | None]
    missing: str
    asked: int = 0
    number: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.number = {id: index for index, id in enumerate(self.ids)}

    def places(self, answers: StoredAnswers) -> np.ndarray:
        """The index in ids of each question of a point; -1 for those that the page does not contain."""
        place = np.full(len(answers.ids), -1)
        for id, index in self.number.items():
            if (number := answers.ids.numbers.get(id)) is not None:
                place[number] = index
        return place[answers.number]


def question_set(evaluations: Sequence[Evaluation], max_bytes: int = QUESTION_BYTES) -> QuestionSet:
    """Collects the questions that any row of these evaluations answered. The evaluations share one data set.

    If these are more than MAX_QUESTIONS, or take more than max_bytes, it has the first ones in the order from which a
    limit takes questions: a random sample.
    """
    known = {question.id: question for evaluation in evaluations for question in evaluation.questions}
    stored = [row.answers for evaluation in evaluations for row in evaluation.points if len(row.answers)]
    names = stored[0].ids.names if stored else []
    right = np.full(len(names), NO_ANSWER, dtype=np.int32)
    for answers in stored:
        right[answers.number] = answers.answer
    asked = np.flatnonzero(right != NO_ANSWER).tolist()
    number = {names[each]: each for each in asked}
    wanted = set(_sample(number, known, max_bytes, rows=len(stored)))
    # In the order of the data set, and questions that it does not contain last.
    ids = [id for id in known if id in wanted] + sorted(id for id in wanted if id not in known)
    missing = next((evaluation.missing for evaluation in evaluations if evaluation.missing), "")
    values = {id: int(right[number[id]]) for id in ids}
    return QuestionSet(ids, known, {id: None if at < 0 else at for id, at in values.items()}, missing, len(asked))


def _sample(ids: Collection[str], known: Mapping[str, Question], max_bytes: int, rows: int) -> Iterator[str]:
    """As many ids as the page may contain; all of them, or the first in the order from which a limit takes them."""

    def drawn(id: str) -> tuple[str, str]:
        return draw_order(known[id]) if id in known else (stable_hash(id), "")

    taken = 0.0
    for id in heapq.nsmallest(MAX_QUESTIONS, ids, key=drawn):
        question = known.get(id)
        texts = [id] if question is None else [id, *question.choices, *(getattr(question, name) for name in _TEXTS)]
        taken += sum(len(text.encode()) + 3 for text in texts) + 1.5 * rows  # base64 of a byte and a bit for each row
        if taken > max_bytes:
            return
        yield id


def pack_answers(row: TableRow, questions: QuestionSet) -> dict[str, str]:
    """Packs predictions, one byte per question, and correct, one bit per question (lowest bit first), in base64."""
    choices = np.full(len(questions.ids), NOT_EVALUATED, dtype=np.uint8)
    right = np.zeros(len(questions.ids), dtype=bool)
    places = questions.places(row.answers)
    shown = row.answers.take(places >= 0)
    readable = np.where(shown.prediction < 0, UNREADABLE, shown.prediction)
    choices[places[places >= 0]] = np.where(shown.skipped, SKIPPED, readable)
    right[places[places >= 0]] = (shown.correct >= 0.5) & ~shown.skipped
    return {
        "predictions": _base64(choices.tobytes()),
        "correct": _base64(np.packbits(right, bitorder="little").tobytes()),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pack_row(row: TableRow, style: Mapping[str, Any], along: str = "kept") -> dict[str, Any]:
    """Packs one row: its name, figures and comparisons.

    style: its color, marker and dash. along: the setting on the x axis of the charts.
    """
    figures = {
        name: value
        for name, value in row.point.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("kept", "seed")
    }
    if row.seeds:
        figures["seeds"] = len(row.seeds)
    short = {"difference": "points", "diff_low": "low", "diff_high": "high", "p_value": "p", "p_holm": "p_holm"}
    versus = {name: {short.get(key, key): value for key, value in found.items()} for name, found in row.versus.items()}
    return {
        "id": row_id(row),
        "key": row.point["key"],
        "method": row.method,
        "setting": row.series.removeprefix(row.method).strip(" ()"),
        "label": row.label,
        "series": row.series,
        "line": row.line or row.series,
        "map": row.map or row.label,
        "x": row.point.get(along),
        "kept": row.kept,
        "status": row.status,
        "control": row.is_control,
        "figures": figures,
        "versus": versus,
        **style,
    }


def row_id(row: TableRow) -> str:
    """Identifies a row within its evaluation: a key can occur in two sweeps, and as one of several seeds."""
    return f"{row.point['key']} {row.label}"


def pack_predictions(row: TableRow, questions: QuestionSet, sheet: Sheet | None = None) -> dict[str, Any]:
    """Packs a complete row's predictions and survivors. sheet: how the frames of videos are laid out."""
    return pack_answers(row, questions) | {"positions": _positions(row, questions, sheet)} if row.is_complete else {}


def _positions(row: TableRow, questions: QuestionSet, sheet: Sheet | None) -> dict[str, list[int]] | None:
    """The positions of survivors by number of the question; None if the point stored none."""
    names = row.answers.ids.names
    stored = {names[number]: positions for number, positions in row.answers.positions.items()}
    if sheet is not None:
        stored = {id: sheet.places(each) for id, each in stored.items() if max(each, default=0) < sheet.count}
    return {str(questions.number[id]): stored[id] for id in stored if id in questions.number} or None


def pack_set(questions: QuestionSet, gallery: Pictures, thumbnails: Pictures) -> dict[str, Any]:
    """Packs the questions as columns, and their pictures by number of the question."""
    known = [questions.known.get(id) for id in questions.ids]
    columns = {name: [getattr(question, name) if question else "" for question in known] for name in _TEXTS}
    by_number = [
        {str(questions.number[id]): uri for id, uri in pictures.uris.items()} for pictures in (gallery, thumbnails)
    ]
    return {
        "id": questions.ids,
        "asked": questions.asked,
        **columns,
        "choices": [list(question.choices) if question else [] for question in known],
        "answer": [questions.answers[id] for id in questions.ids],
        "accepted": [_accepted(question) if question else [] for question in known],
        "pictures": by_number[0],
        "thumbnails": by_number[1],
        "videos": [number for number, question in enumerate(known) if question and question.video],
        "no_picture": questions.missing or _why_none(thumbnails),
    }


def _accepted(question: Question) -> list[str]:
    """The accepted answers in words; each with how many of the people asked gave it, where some agree."""
    counts = Counter(question.answers)
    if len(counts) == len(question.answers):
        return list(counts)
    return [f"{answer} ({count} of {counts.total()})" for answer, count in counts.most_common()]


def _why_none(thumbnails: Pictures) -> str:
    if thumbnails.lost:
        reason = next(iter(thumbnails.lost.values()))
        return f"This page does not contain the picture. {len(thumbnails.lost)} could not be read; the first: {reason}"
    return "This page does not contain the picture: it shows those of the questions that methods disagree on most."


def contested(evaluations: Sequence[Evaluation], questions: QuestionSet) -> list[str]:
    """Sorts the ids by how much the points disagree: first the questions that half of the points answer correctly."""
    right, answered = np.zeros(len(questions.ids)), np.zeros(len(questions.ids))
    for evaluation in evaluations:
        for row in (row for row in evaluation.points if row.is_complete and len(row.answers)):
            places = questions.places(row.answers)
            right[places[places >= 0]] += row.answers.correct[places >= 0]
            answered[places[places >= 0]] += 1
    share = right / np.maximum(answered, 1)
    return [questions.ids[number] for number in np.argsort(-share * (1 - share), kind="stable")]


def gallery_ids(evaluation: Evaluation, order: Sequence[str], known: Mapping[str, Question]) -> list[str]:
    """Returns up to MAX_GALLERY questions for which a point stored its survivors, in the given order.

    Where the points' visual tokens are those of videos, other questions are left out, and elsewhere videos.
    """
    answers = [row.answers for row in evaluation.points if row.is_complete]
    stored = {each.ids.names[number] for each in answers for number in each.positions}
    videos = evaluation.video_grid is not None
    return [id for id in order if id in stored and (id not in known or (known[id].video is not None) == videos)][
        :MAX_GALLERY
    ]


def sheet_of(evaluation: Evaluation) -> Sheet | None:
    """How the frames of the evaluation's videos are laid out; None for pictures."""
    grid = evaluation.video_grid
    return Sheet(*grid) if grid and len(grid) == 3 else None


def grid_of(evaluation: Evaluation) -> tuple[int, int] | None:
    """Rows and columns of the visual tokens as they are drawn; None if they form no square or differ between points."""
    if sheet := sheet_of(evaluation):
        return sheet.grid
    count = evaluation.visual_tokens or 0
    side = math.isqrt(count)
    return (side, side) if side and side * side == count else None


def gallery_pictures(
    ids: Sequence[str], questions: QuestionSet, image_aspect: str | None, sheet: Sheet | None
) -> Pictures:
    """Encodes the pictures on which survivors are drawn, as the model saw them. sheet: for videos."""
    shown = partial(seen_by_model, image_aspect=image_aspect, sheet=sheet)
    return encode_pictures(ids, questions.known, side=GALLERY_SIDE, budget_bytes=GALLERY_BYTES, shown=shown)


def thumbnails(ids: Sequence[str], questions: QuestionSet, budget_bytes: int) -> Pictures:
    """Encodes small pictures for the list of questions."""
    return encode_pictures(ids, questions.known, side=THUMBNAIL_SIDE, budget_bytes=budget_bytes)
