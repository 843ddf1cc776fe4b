"""Compares grid points of one pool question by question."""

from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.answer_matrix import AnswerMatrix, Predictions, answer_matrix
from analysis.columns import COLUMN_TYPES, CONTROLS, SETTINGS, complete, option_columns, pool_titles
from analysis.predictions import QUESTION
from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import (
    compare_seeds,
    holm,
    is_whole,
    mcnemar_exact,
    minimum_detectable_difference,
    seeded_accuracy,
)

FLIPS = ("right to wrong", "wrong to right", "wrong to wrong")
_DIFFERENCE = ("difference", "diff_low", "diff_high")
_COMPARED = (
    "accuracy",
    "reference_accuracy",
    *_DIFFERENCE,
    "b",
    "c",
    "p_value",
    "p_holm",
    "detectable",
    "cost",
    "agreement",
)


def compare(
    results: pd.DataFrame,
    predictions: Predictions,
    reference: str = "fastv",
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> pd.DataFrame:
    """Compares every complete point with the reference at the same budget, else at the same kept, in the same pool.

    Only questions that both points answered count.

    reference   a method's name, or a point's key. The references full and no_image are compared with points of every
                kept. If the reference method was run several times at one kept, a point is compared with the run whose
                layout, then agg_layer, then seed match its own, then with the one that answered most questions
    level       confidence level of the interval; 1 - level is the significance level of `detectable`
    power       probability with which a true difference of `detectable` is found

    Returns one row per comparison. Besides the columns that name the point (pool_title is its pool's short title):
    n                               questions that both answered
    accuracy, reference_accuracy    shares over those questions
    difference, diff_low, diff_high point minus reference in percentage points, with its interval
    b, c                            questions that only the point, or only the reference, answers correctly; NA for
                                    several seeds, and where answers are right in part
    p_value                         of McNemar's exact test; for several seeds, of `compare_seeds`; where answers are
                                    right in part, of a paired bootstrap
    cost                            the point's FLOPs over the reference's: at equal kept they may differ
    p_holm                          p_value corrected by Holm's method for all comparisons of the pool in this table
    detectable                      smallest true difference, in percentage points, that n questions with this much
                                    disagreement would show with the given power; NA where no difference would, and
                                    for several seeds
    agreement                       share of the answers that equal the reference's, right or wrong; of several seeds,
                                    the mean over all pairs
    note                            why a point has no reference to be compared with; its figures are then NA

    The interval is Agresti and Min's (2005, "Simple improved confidence intervals for comparing matched proportions");
    for several seeds, it is over questions and seeds.

    Raises TokenselError if no complete point has this method or key.
    """
    rows, references = _rows_and_references(results, reference)
    titles = pool_titles(rows)
    keys = {row["key"]: keys_of(row) for row in rows[["key", "keys"]].to_dict("records")}
    table = [
        row | {"pool_title": titles[pool]} | _against(answers, keys, row["key"], row["reference_key"], level, power)
        for pool, answers in answers_by_pool(rows, predictions)
        for row in _pairs(rows[rows["pool"] == pool], references[references["pool"] == pool], reference)
    ]
    named = ["pool", "pool_title", "key", "reference_key", "reference", *naming_columns(rows)]
    frame = pd.DataFrame(table, columns=[*named, "n", *_COMPARED, "note"])
    frame = typed_frame(frame, dict.fromkeys(_COMPARED, "Float64") | {"n": "Int64", "b": "Int64", "c": "Int64"})
    for _, same in frame.dropna(subset="p_value").groupby("pool"):
        frame.loc[same.index, "p_holm"] = holm(same["p_value"].tolist())
    return frame


def flips(predictions: pd.DataFrame, key: str, reference_key: str) -> pd.DataFrame:
    """Lists the questions that two points answer differently.

    Columns: id, answer, prediction, reference_prediction, flip, and the columns of QUESTION that predictions has. flip
    is one of FLIPS and goes from the reference's answer to the point's.

    Raises TokenselError if a key has no predictions.
    """
    one, other = _answered(predictions, key), _answered(predictions, reference_key)
    both = one.join(other[["prediction", "correct"]].add_prefix("reference_"), how="inner")
    # An unreadable answer (NA) counts as a prediction that differs from every choice.
    both = both[both["prediction"].fillna(-1) != both["reference_prediction"].fillna(-1)]
    kinds = np.select([both["reference_correct"] >= 0.5, both["correct"] >= 0.5], FLIPS[:2], default=FLIPS[2])
    frame = both.assign(flip=pd.array(kinds, dtype="string")).reset_index()
    known = [name for name in QUESTION if name in frame.columns]
    return frame[["id", "answer", "prediction", "reference_prediction", "flip", *known]]


def flip_counts(results: pd.DataFrame, predictions: pd.DataFrame, reference: str = "full") -> pd.DataFrame:
    """Counts how many answers of every complete point differ from the reference's.

    Columns besides those that name the point: n, right_to_wrong, wrong_to_right, and wrong_to_wrong (another wrong
    choice). The reference is chosen as in `compare`; points that have none are left out.

    Raises TokenselError if no complete point has this method or key.
    """
    rows, references = _rows_and_references(results, reference)
    titles = pool_titles(rows)
    table = [
        row | {"pool_title": titles[pool]} | _flipped(answers, row["key"], row["reference_key"])
        for pool, answers in answers_by_pool(rows, predictions)
        for row in _pairs(rows[rows["pool"] == pool], references[references["pool"] == pool], reference)
        if row["reference_key"] is not None
    ]
    counted = ["n", *(flip.replace(" ", "_") for flip in FLIPS)]
    named = ["pool", "pool_title", "key", "reference_key", "reference", *naming_columns(rows)]
    frame = pd.DataFrame(table, columns=[*named, *counted])
    return typed_frame(frame, dict.fromkeys(counted, "Int64"))


def by_group(results: pd.DataFrame, predictions: pd.DataFrame, group: str = "family") -> pd.DataFrame:
    """Computes the accuracy of every complete point in each group of questions.

    group   a column of predictions that comes from the questions: family, topic, subject, grade, hint, ...

    Columns besides those that name the point: group, n, correct (NA for several seeds), accuracy, ci_low, ci_high
    (shares; the interval is Wilson's, 95%, for several seeds as in `seeded_accuracy`).

    Raises TokenselError if the predictions were loaded without questions.
    """
    if group not in predictions.columns:
        raise TokenselError(f"group={group}: not in predictions; load them with questions=questions_of(results)")
    rows = complete(results)
    rows = rows.assign(pool_title=rows["pool"].map(pool_titles(rows)))
    answered = predictions[~predictions["skipped"]]
    cells = []
    for row in rows[["key", "keys"]].to_dict("records"):
        keys = keys_of(row)
        for name, same in answered[answered["key"].isin(keys)].groupby(group, observed=True):
            right = same["correct"].to_numpy()[None]
            if len(keys) > 1:
                right = same.pivot(index="key", columns="id", values="correct").dropna(axis=1).to_numpy(dtype=float)
            if right.size:
                found = seeded_accuracy(right)
                share = {
                    "n": found.n,
                    "correct": found.accuracy * found.n if is_whole(right) and len(right) == 1 else None,
                }
                share |= {"accuracy": found.accuracy, "ci_low": found.ci_low, "ci_high": found.ci_high}
                cells.append({"key": row["key"], "group": name, **share})
    counted = pd.DataFrame(cells, columns=["key", "group", "n", "correct", "accuracy", "ci_low", "ci_high"])
    counted = counted.astype({"key": "string", "n": "Int64"})
    counted["correct"] = counted["correct"].astype("Float64").round().astype("Int64")
    return rows[["pool", "pool_title", "key", *naming_columns(rows)]].merge(counted, on="key", how="inner")


def _rows_and_references(results: pd.DataFrame, reference: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = complete(results)
    references = rows[(rows["method"] == reference) | (rows["key"] == reference)]
    if references.empty:
        methods = ", ".join(sorted(rows["method"].unique())) or "none"
        raise TokenselError(
            f"reference={reference}: no complete point has this method or key; methods of complete points: {methods}"
        )
    return rows, references


def naming_columns(rows: pd.DataFrame) -> list[str]:
    """The columns that name a point for a reader."""
    return ["method", "kept", "kept_share", *SETTINGS, *option_columns(rows)]


def typed_frame(frame: pd.DataFrame, types: dict[str, str]) -> pd.DataFrame:
    """The frame with the types of `analysis.columns`, and of further columns."""
    return frame.astype({name: kind for name, kind in (COLUMN_TYPES | types).items() if name in frame.columns})


def _pairs(rows: pd.DataFrame, references: pd.DataFrame, reference: str) -> Iterator[dict[str, Any]]:
    """Yields each point that is not a reference: the columns that name it, reference_key (None if none) and note."""
    candidates = references.to_dict("records")
    if not references["method"].isin(CONTROLS).any():
        rows = rows[~rows["method"].isin(CONTROLS)]
    for row in rows[~rows["key"].isin(references["key"])].to_dict("records"):
        fitting = [each for each in candidates if each["method"] in CONTROLS or _same_budget(each, row)]
        fitting = fitting or [each for each in candidates if _same_kept(each, row)]
        # min takes the first of equally good candidates, so the order of the table decides.
        chosen = min(fitting, key=partial(_mismatch, row), default=None)
        named = {name: row[name] for name in ("pool", "key", *naming_columns(rows))}
        note = "" if chosen else f"no {reference} at this {'kept' if pd.isna(row['budget']) else 'budget'}"
        cost = row["flops_ratio"] / chosen["flops_ratio"] if chosen else None
        found = {"reference": reference, "reference_key": chosen["key"] if chosen else None, "cost": cost}
        yield named | found | {"note": note}


def keys_of(row: Mapping[Hashable, Any]) -> list[str]:
    """The keys of the points that a row stands for."""
    return [row["key"]] if pd.isna(row["keys"]) else row["keys"].split()


def _mismatch(row: dict, other: dict) -> tuple[float, ...]:
    return *(not _same(other, row, name) for name in ("layout", "agg_layer", "seed")), -int(other["n"])


def _same_budget(one: dict, other: dict) -> bool:
    """Whether both were solved for some budget."""
    if pd.isna(one["budget"]) or pd.isna(other["budget"]):
        return False
    return bool(set(one["budget"].split(", ")) & set(other["budget"].split(", ")))


def _same_kept(one: dict, other: dict) -> bool:
    """Whether both were asked for the same count; or both for the same auto, whose counts need not be the same."""
    asked = [str(each.get("kept_share")) for each in (one, other)]
    if any(text.startswith("auto") for text in asked):
        return asked[0] == asked[1]
    return _same(one, other, "kept")


def _same(one: dict, other: dict, name: str) -> bool:
    if pd.isna(one[name]) or pd.isna(other[name]):
        return pd.isna(one[name]) and pd.isna(other[name])
    return bool(one[name] == other[name])


def answers_by_pool(rows: pd.DataFrame, predictions: Predictions) -> Iterator[tuple[str, AnswerMatrix]]:
    """Yields each pool of the rows with the answers of its points."""
    for pool, same in rows.groupby("pool", sort=False):
        keys = [key for row in same[["key", "keys"]].to_dict("records") for key in keys_of(row)]
        yield str(pool), answer_matrix(keys, predictions)


def _against(
    answers: AnswerMatrix,
    keys: Mapping[str, list[str]],
    key: str,
    reference_key: str | None,
    level: float,
    power: float,
) -> dict[str, Any]:
    if reference_key is None:
        return {}
    one, other = answers.over_seeds(keys[key], keys[reference_key])
    n = one.shape[1]
    if not n:
        return {"note": "no question was answered by both"}
    found = compare_seeds(one, other, level)
    return {
        "n": n,
        "accuracy": one.mean(),
        "reference_accuracy": other.mean(),
        "difference": 100 * found.difference,
        "diff_low": 100 * found.ci_low,
        "diff_high": 100 * found.ci_high,
        "p_value": found.p_value,
        "agreement": answers.agreement(keys[key], keys[reference_key]),
    } | (_disagreement(one[0], other[0], level, power) if len(one) == len(other) == 1 else {})


def _disagreement(one: np.ndarray, other: np.ndarray, level: float, power: float) -> dict[str, Any]:
    """b, c and detectable of two points of one seed whose answers are right or wrong."""
    if not (is_whole(one) and is_whole(other)):
        return {}
    test = mcnemar_exact(one, other)
    discordant, detectable = (test.b + test.c) / len(one), None
    if discordant:
        detectable = minimum_detectable_difference(len(one), discordant=discordant, power=power, alpha=1 - level)
    return {"b": test.b, "c": test.c, "detectable": None if detectable is None else 100 * detectable}


def _flipped(answers: AnswerMatrix, key: str, reference_key: str) -> dict[str, int]:
    (right, was_right), (told, was) = answers.pair(key, reference_key)
    right, was_right = right >= 0.5, was_right >= 0.5
    kinds = (was_right & ~right, ~was_right & right, ~was_right & ~right & (told != was))
    counts = {flip.replace(" ", "_"): int(kind.sum()) for flip, kind in zip(FLIPS, kinds, strict=True)}
    return {"n": len(right)} | counts


def _answered(predictions: pd.DataFrame, key: str) -> pd.DataFrame:
    rows = predictions[(predictions["key"] == key) & ~predictions["skipped"]]
    if rows.empty:
        raise TokenselError(f"key={key}: the predictions contain no such key")
    # A point that two sweeps contain has the same answers in both.
    return rows.drop_duplicates("id").set_index("id")
