"""What questions need the picture for: a method's accuracy on blind, coarse and hard questions.

Most benchmarks mix questions of very different kinds, and a mean over all of them says little about a reduction of
visual tokens. Two controls tell the kinds apart, each question by itself:

blind    right without the picture (no_image)
coarse   wrong without it, but right when the picture shows no more than as many patches as are kept (downsample)
hard     the rest: what a good choice of tokens is needed for, and what the model cannot answer at all; the full model's
         accuracy on them is what can be reached
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.answer_matrix import AnswerMatrix, Predictions
from analysis.columns import CONTROLS, complete, pool_titles
from analysis.paired import answers_by_pool, keys_of, naming_columns, typed_frame
from tokensel.evaluation.statistics import seeded_accuracy

NEEDS = ("blind", "coarse", "hard")
#: Where a folder has no point of downsample.
WITHOUT_DOWNSAMPLE = ("blind", "not blind")
# From this share of a score on, an answer counts as right.
_RIGHT = 0.5
_TYPES = {"at_kept": "Int64", "need": "string", "n": "Int64", "of": "Int64", "accuracy": "Float64"}
_TYPES |= {"ci_low": "Float64", "ci_high": "Float64"}


def by_need(results: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """The accuracy of every complete point on blind, coarse and hard questions.

    A point is taken apart with the downsample of its own kept, and full with each of them. A pool without no_image has
    no rows; one without downsample tells blind questions from others ("not blind"), for all points alike. Of answers
    that are scored in shares, one half and more counts as right where questions are told apart.

    Columns besides those that name the point: at_kept (of the downsample; NA without one), need, n (questions of this
    kind that the point, its seeds and the controls answered), of (of all kinds together), accuracy, ci_low, ci_high
    (shares; the interval as in `seeded_accuracy`, 95%; NA where n is 0).

    Source: Liao et al. 2025, https://arxiv.org/abs/2510.07143 (VTC-Bench), which takes the questions that the full
    model answers, and asks whether downsampling by the same ratio answers them too. Here no question is left out.
    """
    rows = complete(results)
    rows = rows[rows["pool"].isin(rows[rows["method"] == "no_image"]["pool"])]
    titles = pool_titles(rows)
    table = []
    for pool, answers in answers_by_pool(rows, predictions):
        same = rows[rows["pool"] == pool]
        for row, split in _split(same, answers):
            named = {name: row[name] for name in ("pool", "key", *naming_columns(rows))}
            table += [named | {"pool_title": titles[pool]} | cell for cell in split]
    names = ["pool", "pool_title", "key", *naming_columns(rows), *_TYPES]
    return typed_frame(pd.DataFrame(table, columns=names), _TYPES)


def _split(rows: pd.DataFrame, answers: AnswerMatrix) -> Iterator[tuple[dict, list[dict]]]:
    """For each point of a pool, and for full at each kept: its row, and one cell for each kind of questions."""
    records = rows.to_dict("records")
    blind = next(row for row in records if row["method"] == "no_image")
    controls = {row["kept"]: row for row in records if row["method"] == "downsample"}
    for row in records:
        if row["method"] in ("no_image", "downsample"):
            continue
        if not controls:
            yield row, _cells(row, [blind], answers)
        for kept, coarse in sorted(controls.items()):
            counted = pd.isna(row["kept_share"]) or row["kept_share"].endswith("%")
            if row["method"] in CONTROLS or (counted and not pd.isna(row["kept"]) and row["kept"] == kept):
                yield row, [{"at_kept": kept} | cell for cell in _cells(row, [blind, coarse], answers)]


def _cells(row: dict, controls: Sequence[dict], answers: AnswerMatrix) -> list[dict]:
    """controls: no_image, and downsample if there is one. A question's kind is that of the first that answers it."""
    seeds = [answers.keys.index(key) for key in keys_of(row)]
    places = [answers.keys.index(control["key"]) for control in controls]
    shared = answers.answered[[*seeds, *places]].all(0)
    told = answers.right[places][:, shared] >= _RIGHT
    kinds = np.where(told.any(0), told.argmax(0), len(controls))
    right = answers.right[seeds][:, shared]
    names = NEEDS if len(controls) > 1 else WITHOUT_DOWNSAMPLE
    return [_cell(name, right[:, kinds == kind], len(kinds)) for kind, name in enumerate(names)]


def _cell(need: str, right: np.ndarray, of: int) -> dict:
    cell = {"need": need, "n": right.shape[1], "of": of}
    if not right.shape[1]:
        return cell
    found = seeded_accuracy(right)
    return cell | {"accuracy": found.accuracy, "ci_low": found.ci_low, "ci_high": found.ci_high}
