"""The figures of a grid point, computed from its stored predictions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tokensel.evaluation.marking import share_of
from tokensel.evaluation.statistics import share_interval, wilson_interval

# In logits. Batching alone moves them by less than 1e-4 in float32.
NEAR_TIE = 1e-3


def hangs_on_a_tie(record: Mapping[str, Any]) -> bool:
    """Whether rounding may change this prediction: through the best two logits, or through the choice of tokens."""
    margin = record.get("margin")
    return bool(record.get("tied_choice")) or (margin is not None and margin < NEAR_TIE)


def summarize(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy and its uncertainty, from the records in a point's predictions.jsonl, which are gone through once.

    n, correct       questions answered, and answered correctly; skipped questions count in neither. correct is None
                     where an answer is right in part
    skipped          questions whose picture could not be read
    unscored         questions whose benchmark scores no single answer; missing where there are none
    accuracy         the mean of the answers' shares of being right; None if n is 0. ci_low, ci_high: its 95% interval
    turn_accuracy    of questions with several turns, the mean share of the first answers, the second ones, and so on
    min_margin       the smallest distance between the best and the second-best logit
    near_ties        answers with a margin below NEAR_TIE: another processor's rounding may change them
    kept_mean        visual tokens that remain behind the last stage, averaged over the questions; None unless the
                     picture decides how many. kept_sd: their standard deviation
    n_tied_choice    answers for which the choice of visual tokens changed with tiny noise, see `tokensel.engine.ties`
    n_ties           answers that hang on a tie of either kind

    min_margin and near_ties are None where answers were written instead of scored, n_tied_choice where no choice was
    checked, and n_ties where both are.
    """
    count: Counter[str] = Counter()
    smallest: float | None = None
    total = squares = 0.0
    left: Counter[int] = Counter()
    turns: dict[int, list[float]] = {}
    for record in records:
        if record.get("skipped"):
            count["skipped"] += 1
            continue
        if (share := share_of(record)) is None:
            count["unscored"] += 1
            continue
        count["n"] += 1
        count["correct"] += share == 1
        total, squares = total + share, squares + share**2
        for number, turn in enumerate(record.get("turns") or (), start=1):
            turns.setdefault(number, []).append(share_of(turn) or 0.0)
        if (margin := record.get("margin")) is not None:
            smallest = margin if smallest is None else min(smallest, margin)
            count["margins"] += 1
            count["near_ties"] += margin < NEAR_TIE
        if (tied := record.get("tied_choice")) is not None:
            count["checked"] += 1
            count["tied_choices"] += tied
        count["ties"] += hangs_on_a_tie(record)
        if kept := record.get("kept"):
            left[list(kept.values())[-1]] += 1
    n, whole = count["n"], total == count["correct"]
    correct = count["correct"] if whole else None
    figures: dict[str, Any] = {"n": n, "correct": correct, "skipped": count["skipped"], "min_margin": smallest}
    if turns:
        figures["turn_accuracy"] = {str(number): sum(shares) / len(shares) for number, shares in turns.items()}
    if count["unscored"]:
        figures["unscored"] = count["unscored"]
    figures["near_ties"] = count["near_ties"] if count["margins"] else None
    figures["n_tied_choice"] = count["tied_choices"] if count["checked"] else None
    figures["n_ties"] = count["ties"] if count["margins"] or count["checked"] else None
    mean = sum(number * times for number, times in left.items()) / left.total() if left else None
    figures |= {"kept_mean": mean, "kept_sd": _spread(left, mean)}
    if not n:
        return figures | {"accuracy": None, "ci_low": None, "ci_high": None}
    low, high = wilson_interval(count["correct"], n) if whole else share_interval(total / n, squares / n, n)
    return figures | {"accuracy": total / n, "ci_low": low, "ci_high": high}


def _spread(counts: Mapping[int, int], mean: float | None) -> float | None:
    """The standard deviation of numbers that came so many times each."""
    if mean is None:
        return None
    return (sum(times * (number - mean) ** 2 for number, times in counts.items()) / sum(counts.values())) ** 0.5
