"""Paired comparison: what two points of one pool say about the same questions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from analysis.predictions import QUESTION
from analysis.results import CONTROLS, KINDS, SETTINGS, complete, option_columns, pool_titles
from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import holm, mcnemar_exact, minimum_detectable_difference, wilson_interval

FLIPS = ("right to wrong", "wrong to right", "wrong to wrong")
_DIFFERENCE = ("difference", "diff_low", "diff_high")
_COMPARED = ("accuracy", "reference_accuracy", *_DIFFERENCE, "b", "c", "p_value", "p_holm", "detectable")


@dataclass(frozen=True)
class _Answers:
    """Of one pool's points, in the order of keys: prediction, int [points, questions], -1 for none; right and answered,
    bool of the same shape."""

    keys: list[str]
    prediction: np.ndarray
    right: np.ndarray
    answered: np.ndarray

    def pair(self, key: str, reference: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Of the questions that both answered, what each has right, and what each predicts."""
        one, other = self.keys.index(key), self.keys.index(reference)
        shared = self.answered[one] & self.answered[other]
        both = [one, other]
        right, prediction = self.right[both][:, shared], self.prediction[both][:, shared]
        return (right[0], right[1]), (prediction[0], prediction[1])


def compare(
    results: pd.DataFrame,
    predictions: pd.DataFrame,
    reference: str = "fastv",
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> pd.DataFrame:
    """Every complete point against the reference at the same kept in the same pool, over the questions both answered.

    reference   a method's name, or a point's key. full and no_image are compared with every kept. Where the method was
                run several times at a kept, the partner is the one of the same layout, layer and seed, as far as there
                is one
    level       of the interval, and 1 - level the significance for `detectable`

    One row per comparison: what names the point (pool_title: its pool in short); n; accuracy and reference_accuracy
    (shares); difference, diff_low and diff_high in percentage points (point less reference); b and c, questions that
    only the point, only the reference has right; p_value, exact McNemar's; p_holm, corrected for all comparisons of the
    pool in this table; detectable, the smallest true difference in points that n questions with this much disagreement
    show with the given power, NA where they show none. A point without a partner has NA, and note says why.

    The interval is Agresti and Min's (2005, "Simple improved confidence intervals for comparing matched proportions").

    Raises TokenselError for a reference that no complete point has.
    """
    rows, referees = _rows_and_referees(results, reference)
    titles = pool_titles(rows)
    table = [
        row | {"pool_title": titles[pool]} | _against(answers, row["key"], row["reference_key"], level, power)
        for pool, answers in _pools(rows, predictions)
        for row in _partners(rows[rows["pool"] == pool], referees[referees["pool"] == pool], reference)
    ]
    named = ["pool", "pool_title", "key", "reference_key", "reference", *_names(rows)]
    frame = pd.DataFrame(table, columns=[*named, "n", *_COMPARED, "note"])
    frame = _typed(frame, dict.fromkeys(_COMPARED, "Float64") | {"n": "Int64", "b": "Int64", "c": "Int64"})
    for _, same in frame.dropna(subset="p_value").groupby("pool"):
        frame.loc[same.index, "p_holm"] = holm(same["p_value"].tolist())
    return frame


def difference_interval(b: int, c: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of (b - c) / n for paired answers, from -1 to 1: Wald's with half a question added to each cell."""
    difference, size = (b - c) / (n + 2), n + 2
    spread = norm.ppf(0.5 + level / 2) * np.sqrt((b + c + 1) / size - difference**2) / np.sqrt(size)
    return max(-1.0, float(difference - spread)), min(1.0, float(difference + spread))


def flips(predictions: pd.DataFrame, key: str, reference_key: str) -> pd.DataFrame:
    """The questions that two points answer differently: id, answer, prediction, reference_prediction, and flip.

    flip is one of FLIPS: what became of the reference's answer. Columns that a question gives are kept.

    Raises TokenselError for a key without predictions.
    """
    one, other = _answered(predictions, key), _answered(predictions, reference_key)
    both = one.join(other[["prediction", "correct"]].add_prefix("reference_"), how="inner")
    # A written answer that could not be read is an answer too: NA differs from every choice.
    both = both[both["prediction"].fillna(-1) != both["reference_prediction"].fillna(-1)]
    kinds = np.select([both["reference_correct"], both["correct"]], FLIPS[:2], default=FLIPS[2])
    frame = both.assign(flip=pd.array(kinds, dtype="string")).reset_index()
    told = [name for name in QUESTION if name in frame.columns]
    return frame[["id", "answer", "prediction", "reference_prediction", "flip", *told]]


def flip_counts(results: pd.DataFrame, predictions: pd.DataFrame, reference: str = "full") -> pd.DataFrame:
    """How many answers of every complete point differ from the reference's: n, right_to_wrong, wrong_to_right and
    wrong_to_wrong (another wrong one). The reference is chosen as in `compare`; points without one are left out.

    Raises TokenselError for a reference that no complete point has.
    """
    rows, referees = _rows_and_referees(results, reference)
    titles = pool_titles(rows)
    table = [
        row | {"pool_title": titles[pool]} | _flipped(answers, row["key"], row["reference_key"])
        for pool, answers in _pools(rows, predictions)
        for row in _partners(rows[rows["pool"] == pool], referees[referees["pool"] == pool], reference)
        if row["reference_key"] is not None
    ]
    counted = ["n", *(flip.replace(" ", "_") for flip in FLIPS)]
    named = ["pool", "pool_title", "key", "reference_key", "reference", *_names(rows)]
    frame = pd.DataFrame(table, columns=[*named, *counted])
    return _typed(frame, dict.fromkeys(counted, "Int64"))


def by_group(results: pd.DataFrame, predictions: pd.DataFrame, group: str = "family") -> pd.DataFrame:
    """Accuracy of every complete point in each group of questions, with Wilson's 95% interval: group, n, correct,
    accuracy, ci_low, ci_high (shares).

    group   a column of predictions that a question gives: family, topic, subject, grade, hint, ..

    Raises TokenselError where predictions were loaded without questions.
    """
    if group not in predictions.columns:
        raise TokenselError(f"group={group}: not in predictions; load them with questions=questions_of(results)")
    rows = complete(results)
    answered = predictions[~predictions["skipped"] & predictions["folder"].isin(rows["folder"])]
    counted = answered.groupby(["folder", group], observed=True)["correct"].agg(["size", "sum"]).reset_index()
    counted = counted.rename(columns={group: "group", "size": "n", "sum": "correct"}).astype({"folder": "string"})
    counted["accuracy"] = counted["correct"] / counted["n"]
    limits = [wilson_interval(int(right), int(n)) for right, n in zip(counted["correct"], counted["n"], strict=True)]
    counted[["ci_low", "ci_high"]] = np.array(limits).reshape(-1, 2)
    rows = rows.assign(pool_title=rows["pool"].map(pool_titles(rows)))
    named = rows[["pool", "pool_title", "key", *_names(rows), "folder"]]
    return named.merge(counted, on="folder", how="inner").drop(columns="folder")


def _rows_and_referees(results: pd.DataFrame, reference: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = complete(results)
    referees = rows[(rows["method"] == reference) | (rows["key"] == reference)]
    if referees.empty:
        there = ", ".join(sorted(rows["method"].unique())) or "none"
        raise TokenselError(f"reference={reference}: no complete point is of this method or key; complete are: {there}")
    return rows, referees


def _names(rows: pd.DataFrame) -> list[str]:
    """The columns that name a point to a reader."""
    return ["method", "kept", *SETTINGS, *option_columns(rows)]


def _typed(frame: pd.DataFrame, kinds: dict[str, str]) -> pd.DataFrame:
    return frame.astype({name: kind for name, kind in (KINDS | kinds).items() if name in frame.columns})


def _partners(rows: pd.DataFrame, referees: pd.DataFrame, reference: str) -> Iterator[dict[str, Any]]:
    """What names each point that is none of the referees; with reference_key, None where there is no partner."""
    candidates = referees.to_dict("records")
    if not referees["method"].isin(CONTROLS).any():
        rows = rows[~rows["method"].isin(CONTROLS)]
    for row in rows[~rows["key"].isin(referees["key"])].to_dict("records"):
        fitting = [each for each in candidates if each["method"] in CONTROLS or _same(each, row, "kept")]
        # Among equals the first of the table is taken.
        chosen = min(fitting, key=partial(_farness, row), default=None)
        named = {name: row[name] for name in ("pool", "key", *_names(rows))}
        note = "" if chosen else f"no {reference} at this kept"
        yield named | {"reference": reference, "reference_key": chosen["key"] if chosen else None, "note": note}


def _farness(row: dict, other: dict) -> tuple[bool, ...]:
    return tuple(not _same(other, row, name) for name in ("layout", "agg_layer", "seed"))


def _same(one: dict, other: dict, name: str) -> bool:
    if pd.isna(one[name]) or pd.isna(other[name]):
        return pd.isna(one[name]) and pd.isna(other[name])
    return bool(one[name] == other[name])


def _pools(rows: pd.DataFrame, predictions: pd.DataFrame) -> Iterator[tuple[str, _Answers]]:
    for pool, same in rows.groupby("pool", sort=False):
        known = predictions[predictions["folder"].isin(same["folder"]) & ~predictions["skipped"]]
        keys = list(same["key"])
        questions, names = pd.factorize(known["id"])
        place = pd.Categorical(known["key"], categories=keys).codes, questions
        shape = len(keys), len(names)
        prediction, right, answered = np.full(shape, -1), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        prediction[place] = known["prediction"].fillna(-1)
        right[place] = known["correct"]
        answered[place] = True
        yield str(pool), _Answers(keys, prediction, right, answered)


def _against(answers: _Answers, key: str, reference_key: str | None, level: float, power: float) -> dict[str, Any]:
    if reference_key is None:
        return {}
    (one, other), _ = answers.pair(key, reference_key)
    n = len(one)
    if not n:
        return {"note": "no question that both answered"}
    test = mcnemar_exact(one, other)
    apart = (test.b + test.c) / n
    detectable = minimum_detectable_difference(n, discordant=apart, power=power, alpha=1 - level) if apart else None
    low, high = difference_interval(test.b, test.c, n, level)
    return {
        "n": n,
        "accuracy": one.mean(),
        "reference_accuracy": other.mean(),
        "difference": 100 * test.difference,
        "diff_low": 100 * low,
        "diff_high": 100 * high,
        "b": test.b,
        "c": test.c,
        "p_value": test.p_value,
        "detectable": None if detectable is None else 100 * detectable,
    }


def _flipped(answers: _Answers, key: str, reference_key: str) -> dict[str, int]:
    (right, was_right), (prediction, was) = answers.pair(key, reference_key)
    kinds = (was_right & ~right, ~was_right & right, ~was_right & ~right & (prediction != was))
    counts = {flip.replace(" ", "_"): int(kind.sum()) for flip, kind in zip(FLIPS, kinds, strict=True)}
    return {"n": len(right)} | counts


def _answered(predictions: pd.DataFrame, key: str) -> pd.DataFrame:
    rows = predictions[(predictions["key"] == key) & ~predictions["skipped"]]
    if rows.empty:
        raise TokenselError(f"key={key}: has no predictions here")
    # A point that lies in two sweeps has the same answers in both.
    return rows.drop_duplicates("id").set_index("id")
