"""Compares points of kept=auto with fixed counts of the same method that cost as much on average."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.answer_matrix import AnswerMatrix, Predictions
from analysis.columns import SETTINGS, complete, option_columns, pool_titles
from analysis.grouping import auto_text
from analysis.paired import answers_by_pool, keys_of, naming_columns, typed_frame
from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import compare_seeds

COSTS = ("flops_ratio", "tokens_layer_mean", "kv_bytes")
_FIGURES = ("cost", "below_kept", "above_kept", "share_above", "accuracy", "fixed_accuracy")
_DIFFERENCE = ("difference", "diff_low", "diff_high", "p_value")

Row = Mapping[Hashable, Any]


def at_equal_cost(
    results: pd.DataFrame, predictions: Predictions | None = None, cost: str = "flops_ratio"
) -> pd.DataFrame:
    """Sets each complete point of kept=auto beside the fixed counts of its method just below and above its mean cost.

    The accuracy of a fixed count of equal cost is interpolated between these two. It is what one gets by answering a
    share of the questions with the larger count and the others with the smaller one, so it can be had at that cost.

    predictions     adds the paired difference: every question's answer against the same mixture of the two counts'
    cost            flops_ratio, tokens_layer_mean or kv_bytes; of a point of kept=auto the mean over its questions

    Counts belong to a point if they agree with it in the pool and in all settings but kept. Columns besides those that
    name the point:
    kept_share, kept_mean, kept_sd      what was asked for, and how many visual tokens remained
    cost                                the point's
    below_kept, above_kept, share_above the two counts, and the weight of the larger one; equal if one costs the same
    accuracy, fixed_accuracy            the point's, and the interpolated one
    n, difference, diff_low, diff_high  with predictions: questions that all three answered; the point minus the
                                        interpolation in percentage points, with its 95% interval
    p_value                             of a paired bootstrap; of McNemar's exact test where one count costs the same
    note                                why there is nothing to set it beside; its figures are then NA

    Raises TokenselError for another cost, and if no complete point is one of kept=auto.
    """
    if cost not in COSTS:
        raise TokenselError(f"cost={cost}: choose from {', '.join(COSTS)}")
    rows = complete(results)
    rows = rows.assign(pool_title=rows["pool"].map(pool_titles(rows)))
    is_auto = auto_text(rows) != ""
    if not is_auto.any():
        raise TokenselError(
            "at_equal_cost: no complete point was run with kept=auto; add it to the sweep: kept=8,16,auto"
        )
    fixed = rows[~is_auto & rows["kept"].notna()].dropna(subset=cost).to_dict("records")
    answers = dict(answers_by_pool(rows, predictions)) if predictions is not None else {}
    table = []
    for row in rows[is_auto].to_dict("records"):
        found = _beside(row, [each for each in fixed if _belongs(each, row, rows)], cost)
        pair = found.pop("pair", None)
        if pair is not None and row["pool"] in answers:
            found |= _difference(answers[row["pool"]], row, pair, found["share_above"])
        table.append({name: row.get(name) for name in rows.columns} | found)
    own = ["kept_mean", "kept_sd"]
    figures = [*_FIGURES, *(("n", *_DIFFERENCE) if predictions is not None else ()), "note"]
    frame = pd.DataFrame(table, columns=["pool", "pool_title", "key", *naming_columns(rows), *own, *figures])
    counts = dict.fromkeys(("below_kept", "above_kept", "n"), "Int64")
    return typed_frame(frame, dict.fromkeys((*_FIGURES, *_DIFFERENCE), "Float64") | counts)


def _belongs(fixed: Row, auto: Row, rows: pd.DataFrame) -> bool:
    """Whether two points differ in kept alone; of several stages, the layers count."""
    names = ["pool", "method", *(name for name in SETTINGS if name not in ("stages", "code")), *option_columns(rows)]
    return all(_text(fixed[name]) == _text(auto[name]) for name in names) and _layers(fixed) == _layers(auto)


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _layers(row: Row) -> str:
    return re.sub(r"\S+@", "@", _text(row["stages"]))


def _beside(row: Row, fixed: Sequence[Row], cost: str) -> dict[str, Any]:
    """The figures of a point, and under "pair" the two fixed points, if there are any on both sides."""
    mine = row[cost]
    below = max((each for each in fixed if each[cost] <= mine), key=lambda each: each[cost], default=None)
    above = min((each for each in fixed if each[cost] >= mine), key=lambda each: each[cost], default=None)
    if below is None or above is None:
        return {
            "cost": mine,
            "accuracy": row["accuracy"],
            "note": f"no fixed count costs {'less' if below is None else 'more'}",
        }
    width = above[cost] - below[cost]
    share = float((mine - below[cost]) / width) if width else 0.0
    return {
        "pair": (below, above),
        "cost": mine,
        "below_kept": below["kept"],
        "above_kept": above["kept"],
        "share_above": share,
        "accuracy": row["accuracy"],
        "fixed_accuracy": (1 - share) * below["accuracy"] + share * above["accuracy"],
        "note": "",
    }


def _difference(answers: AnswerMatrix, row: Row, pair: tuple[Row, Row], share: float) -> dict[str, Any]:
    """The point's answers against a mixture of two others', over the questions that all of them answered."""
    one, below, above = answers.shared([keys_of(each) for each in (row, *pair)])
    if not one.shape[1]:
        return {"n": 0, "note": "no question was answered by all"}
    mixture = (1 - share) * below.mean(0, keepdims=True) + share * above.mean(0, keepdims=True)
    found = compare_seeds(one, mixture if 0 < share < 1 else np.asarray(above if share else below))
    return {
        "n": one.shape[1],
        "difference": 100 * found.difference,
        "diff_low": 100 * found.ci_low,
        "diff_high": 100 * found.ci_high,
        "p_value": found.p_value,
    }
