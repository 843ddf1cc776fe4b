"""The answers of one pool's points side by side: a row for each point, a column for each question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tokensel.evaluation.stored_answers import StoredAnswers

#: As `load_predictions` gives them, or by key as points hold them, which takes a tenth of the memory.
Predictions = pd.DataFrame | Mapping[str, StoredAnswers]


@dataclass(frozen=True)
class AnswerMatrix:
    """The predictions of one pool. Every array is [points, questions], with points in the order of keys.

    said        what tells answers apart, see `tokensel.evaluation.agreement`: the index of the choice, -1 for none
    right       bool: whether the prediction is correct; float32 where answers are right in part: their shares
    answered    bool: whether the point has a prediction for the question, and did not skip it
    """

    keys: list[str]
    said: np.ndarray
    right: np.ndarray
    answered: np.ndarray

    def over_seeds(self, keys: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns right and right of the reference, each [seeds, questions], over the questions that all answered."""
        one, other = self.shared([keys, references])
        return one, other

    def shared(self, groups: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Returns right, [seeds, questions], of each group of keys, over the questions that all of them answered."""
        places = [[self.keys.index(key) for key in keys] for keys in groups]
        shared = self.answered[[place for each in places for place in each]].all(0)
        return [self.right[each][:, shared] for each in places]

    def pair(self, key: str, reference: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Returns (right, right of reference), (said, said by the reference) over the shared questions."""
        one, other = self.keys.index(key), self.keys.index(reference)
        shared = self.answered[one] & self.answered[other]
        both = [one, other]
        right, told = self.right[both][:, shared], self.said[both][:, shared]
        return (right[0], right[1]), (told[0], told[1])

    def agreement(self, keys: Sequence[str], references: Sequence[str]) -> float | None:
        """The share of equal answers, averaged over all pairs of seeds, over the questions that all answered."""
        one, other = ([self.keys.index(key) for key in each] for each in (keys, references))
        shared = self.answered[[*one, *other]].all(0)
        if not shared.any():
            return None
        return float((self.said[one][:, None, shared] == self.said[other][None][:, :, shared]).mean())


def answer_matrix(keys: list[str], predictions: Predictions) -> AnswerMatrix:
    """The answers of the points with these keys."""
    if isinstance(predictions, pd.DataFrame):
        return _of_frame(keys, predictions)
    stored = [(row, predictions[key]) for row, key in enumerate(keys) if key in predictions]
    asked = np.zeros(max((len(each.ids) for _, each in stored), default=0), dtype=bool)
    for _, each in stored:
        asked[each.number[~each.skipped]] = True
    column = np.cumsum(asked) - 1  # of each question that any point answered
    right, told = (
        np.result_type(least, *(getattr(each, name).dtype for _, each in stored))
        for name, least in (("correct", bool), ("said", np.int16))
    )
    matrix = _empty(keys, int(asked.sum()), right, told)
    for row, each in stored:
        columns = column[each.number[~each.skipped]]
        matrix.said[row, columns] = each.said[~each.skipped]
        matrix.right[row, columns] = each.correct[~each.skipped]
        matrix.answered[row, columns] = True
    return matrix


def _of_frame(keys: list[str], predictions: pd.DataFrame) -> AnswerMatrix:
    known = predictions[predictions["key"].isin(keys) & ~predictions["skipped"]]
    questions, names = pd.factorize(known["id"])
    cells = pd.Categorical(known["key"], categories=keys).codes, questions
    told = known["said"] if "said" in known else known["prediction"].fillna(-1).astype(np.int16)
    matrix = _empty(keys, len(names), known["correct"].dtype, told.dtype)
    matrix.said[cells] = told
    matrix.right[cells] = known["correct"]
    matrix.answered[cells] = True
    return matrix


def _empty(keys: list[str], questions: int, right: Any, said: Any) -> AnswerMatrix:
    shape = len(keys), questions
    return AnswerMatrix(keys, np.full(shape, -1, said), np.zeros(shape, right), np.zeros(shape, dtype=bool))
