"""One point's stored predictions in columns, for what is computed over all questions: a few bytes each."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokensel.data import stable_hash
from tokensel.errors import TokenselError
from tokensel.evaluation.agreement import said
from tokensel.evaluation.question_ids import IdSet, QuestionIds

# So many questions of a point have their kept positions in memory, to be drawn. Sweeps store them for fewer.
_MOST_POSITIONS = 500
_NONE = -1


@dataclass(frozen=True, eq=False)
class StoredAnswers:
    """Predictions in the order in which they are stored, each question once. All arrays are [n].

    ids                  the numbering of the questions; one for all points in memory
    number               int32: the question
    correct              bool; float32 where answers are right in part: their shares from 0 to 1
    skipped              bool: not asked, or not scored by itself
    prediction, answer   int16: indices into the choices; -1 for none, and for the letters that `runners.infer` stores
    said                 equal where answers are the same, see `said`: prediction itself, or int64 where some are words
    positions            by number, the kept visual tokens of the first questions that have them
    """

    ids: QuestionIds
    number: np.ndarray
    correct: np.ndarray
    skipped: np.ndarray
    prediction: np.ndarray
    answer: np.ndarray
    said: np.ndarray
    positions: Mapping[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.number)

    def take(self, places: np.ndarray | slice) -> "StoredAnswers":
        """The predictions at these places."""
        names = ("number", "correct", "skipped", "prediction", "answer", "said")
        columns: dict[str, Any] = {name: getattr(self, name)[places] for name in names}
        left = set(columns["number"][np.isin(columns["number"], list(self.positions))].tolist())
        return replace(self, **columns, positions={key: self.positions[key] for key in self.positions if key in left})

    @property
    def accuracy(self) -> float | None:
        """The share of right answers among the questions that were not skipped; None if there are none."""
        answered = self.correct[~self.skipped]
        return float(answered.mean()) if len(answered) else None


def read_answers(records: Iterable[Mapping[str, Any]]) -> StoredAnswers:
    """The columns of these records, which are read one by one. Of several with one id, the first counts."""
    known = IdSet()
    numbers, prediction, answer = array("i"), array("h"), array("h")
    correct, skipped = bytearray(), bytearray()
    shares: dict[int, float] = {}  # by place, of the answers that are right in part
    words: dict[int, int] = {}  # by place, of the answers that are no index of a choice
    positions: dict[int, list[int]] = {}
    number_of = known.ids.numbers
    for record in records:
        if not known.add(record["id"]):
            continue
        number = number_of[record["id"]]
        numbers.append(number)
        score = record.get("score", 0)
        if score:
            shares[len(correct)] = score
        correct.append(bool(record.get("correct")))
        skipped.append(bool(record.get("skipped")) or score is None)
        for column, value in ((prediction, record.get("prediction")), (answer, record.get("answer"))):
            column.append(value if isinstance(value, int) else _NONE)
        if prediction[-1] == _NONE or "turns" in record:
            words[len(prediction) - 1] = said(record)
        if (kept := record.get("positions")) is not None and len(positions) < _MOST_POSITIONS:
            positions[number] = kept
    choices = np.frombuffer(prediction, dtype=np.int16)
    return StoredAnswers(
        known.ids,
        number=np.frombuffer(numbers, dtype=np.int32),
        correct=_with(np.frombuffer(correct, dtype=bool), shares, np.float32),
        skipped=np.frombuffer(skipped, dtype=bool),
        prediction=choices,
        answer=np.frombuffer(answer, dtype=np.int16),
        said=_with(choices, {place: each for place, each in words.items() if each != _NONE}, np.int64),
        positions=positions,
    )


def _with(values: np.ndarray, others: Mapping[int, float], kind: Any) -> np.ndarray:
    """The values with those at some places replaced by others of this kind; without any, the array itself."""
    if others:
        values = values.astype(kind)
        values[list(others)] = list(others.values())
    return values


def figured_places(
    numbers: np.ndarray,
    ids: QuestionIds,
    metrics: Mapping[str, Any] | None,
    folder: Path,
    order: Mapping[str, tuple] | None = None,
) -> np.ndarray | slice:
    """Which of a point's stored predictions its figures were computed from. numbers: their questions, as stored.

    More are stored if a larger run was interrupted. A limit takes the first questions of a fixed order, so the figures'
    questions are the first stored, or the first in that order. order: sort keys by id, where the questions are known.

    Raises TokenselError if neither are.
    """
    digest = None if metrics is None else metrics.get("questions")
    if metrics is None or digest is None or ids.digest(numbers) == digest:
        return slice(None)
    known, names = order or {}, ids.names

    def drawn(place: int) -> tuple:
        name = names[numbers[place]]
        return known.get(name, (stable_hash(name), ""))

    ordered = np.array(sorted(range(len(numbers)), key=drawn), dtype=np.int64)
    counts = range(len(numbers) - 1, 0, -1) if metrics.get("n") is None else [asked(metrics)]
    for count in counts:
        if ids.digest(numbers[:count]) == digest:
            return slice(count)
        if ids.digest(numbers[ordered[:count]]) == digest:
            return ordered[:count]
    raise TokenselError(
        f"{folder}: its figures were computed from other questions than its predictions; run its sweep again"
    )


def asked(metrics: Mapping[str, Any]) -> int:
    """The number of questions behind these figures, skipped ones included."""
    return (metrics.get("n") or 0) + (metrics.get("skipped") or 0)


def shared_correct(answers: Sequence[StoredAnswers]) -> np.ndarray:
    """Whether each answer is right: bool [len(answers), n], over the questions that all answered, in the first's order;
    float32 where some are right in part.

    Skipped questions count as not answered.
    """
    answered = [each.number[~each.skipped] for each in answers]
    size = len(answers[0].ids) if answers else 0
    everywhere = np.ones(size, dtype=bool)
    for numbers in answered:
        has = np.zeros(size, dtype=bool)
        has[numbers] = True
        everywhere &= has
    wanted = answered[0][everywhere[answered[0]]] if answers else np.zeros(0, dtype=np.int32)
    kind = np.result_type(bool, *(each.correct.dtype for each in answers))
    found, right = np.zeros((len(answers), len(wanted)), dtype=kind), np.zeros(size, dtype=kind)
    for row, each, numbers in zip(found, answers, answered, strict=True):
        right[numbers] = each.correct[~each.skipped]
        row[:] = right[wanted]
    return found


def agreement(one: StoredAnswers, other: StoredAnswers) -> float | None:
    """The share of the questions that both answered to which both say the same; None if there are none."""
    theirs, known = np.zeros(len(other.ids), dtype=other.said.dtype), np.zeros(len(other.ids), dtype=bool)
    theirs[other.number[~other.skipped]] = other.said[~other.skipped]
    known[other.number[~other.skipped]] = True
    mine, numbers = one.said[~one.skipped], one.number[~one.skipped]
    shared = known[numbers]
    return float((mine[shared] == theirs[numbers[shared]]).mean()) if shared.any() else None
