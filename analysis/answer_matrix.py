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

    prediction  int16: index of the choice, -1 for none
    right       bool: whether the prediction is correct; float32 where answers are right in part: their shares
    answered    bool: whether the point has a prediction for the question, and did not skip it
    """

    keys: list[str]
    prediction: np.ndarray
    right: np.ndarray
    answered: np.ndarray

    def over_seeds(self, keys: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns right and right of the reference, each [seeds, questions], over the questions that all answered."""
        one, other = ([self.keys.index(key) for key in each] for each in (keys, references))
        shared = self.answered[[*one, *other]].all(0)
        return self.right[one][:, shared], self.right[other][:, shared]

    def pair(self, key: str, reference: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Returns (right, right of reference), (prediction, prediction of reference) over the shared questions."""
        one, other = self.keys.index(key), self.keys.index(reference)
        shared = self.answered[one] & self.answered[other]
        both = [one, other]
        right, prediction = self.right[both][:, shared], self.prediction[both][:, shared]
        return (right[0], right[1]), (prediction[0], prediction[1])


def answer_matrix(keys: list[str], predictions: Predictions) -> AnswerMatrix:
    """The answers of the points with these keys."""
    if isinstance(predictions, pd.DataFrame):
        return _of_frame(keys, predictions)
    stored = [(row, predictions[key]) for row, key in enumerate(keys) if key in predictions]
    asked = np.zeros(max((len(each.ids) for _, each in stored), default=0), dtype=bool)
    for _, each in stored:
        asked[each.number[~each.skipped]] = True
    column = np.cumsum(asked) - 1  # of each question that any point answered
    matrix = _empty(keys, int(asked.sum()), np.result_type(bool, *(each.correct.dtype for _, each in stored)))
    for row, each in stored:
        columns = column[each.number[~each.skipped]]
        matrix.prediction[row, columns] = each.prediction[~each.skipped]
        matrix.right[row, columns] = each.correct[~each.skipped]
        matrix.answered[row, columns] = True
    return matrix


def _of_frame(keys: list[str], predictions: pd.DataFrame) -> AnswerMatrix:
    known = predictions[predictions["key"].isin(keys) & ~predictions["skipped"]]
    questions, names = pd.factorize(known["id"])
    cells = pd.Categorical(known["key"], categories=keys).codes, questions
    matrix = _empty(keys, len(names), known["correct"].dtype)
    matrix.prediction[cells] = known["prediction"].fillna(-1)
    matrix.right[cells] = known["correct"]
    matrix.answered[cells] = True
    return matrix


def _empty(keys: list[str], questions: int, kind: Any) -> AnswerMatrix:
    shape = len(keys), questions
    prediction, right = np.full(shape, -1, dtype=np.int16), np.zeros(shape, dtype=kind)
    return AnswerMatrix(keys, prediction, right, np.zeros(shape, dtype=bool))
