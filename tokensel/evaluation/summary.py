"""The figures of a grid point, computed from its stored predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokensel.evaluation.statistics import wilson_interval

# In logits. Batching alone moves them by less than 1e-4 in float32.
NEAR_TIE = 1e-3


def hangs_on_a_tie(record: Mapping[str, Any]) -> bool:
    """Whether rounding may change this prediction: through the best two logits, or through the choice of tokens."""
    margin = record.get("margin")
    return bool(record.get("tied_choice")) or (margin is not None and margin < NEAR_TIE)


def summarize(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy and its uncertainty, from the records in a point's predictions.jsonl.

    n, correct       questions answered, and answered correctly; skipped questions count in neither
    skipped          questions whose picture could not be read
    accuracy         correct / n, with its 95% Wilson interval ci_low, ci_high; None if n is 0
    min_margin       the smallest distance between the best and the second-best logit
    near_ties        answers with a margin below NEAR_TIE: another processor's rounding may change them
    kept_mean        visual tokens that remain behind the last stage, averaged over the questions; None unless the
                     picture decides how many
    n_tied_choice    answers for which the choice of visual tokens changed with tiny noise, see `tokensel.engine.ties`
    n_ties           answers that hang on a tie of either kind

    min_margin and near_ties are None where answers were written instead of scored, n_tied_choice where no choice was
    checked, and n_ties where both are.
    """
    answered = [record for record in records if not record.get("skipped")]
    correct = sum(bool(record["correct"]) for record in answered)
    figures: dict[str, Any] = {"n": len(answered), "correct": correct, "skipped": len(records) - len(answered)}
    margins = [record["margin"] for record in answered if record.get("margin") is not None]
    figures["min_margin"] = min(margins, default=None)
    figures["near_ties"] = sum(margin < NEAR_TIE for margin in margins) if margins else None
    checked = [record["tied_choice"] for record in answered if record.get("tied_choice") is not None]
    figures["n_tied_choice"] = sum(checked) if checked else None
    figures["n_ties"] = sum(map(hangs_on_a_tie, answered)) if margins or checked else None
    kept = [list(record["kept"].values())[-1] for record in answered if record.get("kept")]
    figures["kept_mean"] = sum(kept) / len(kept) if kept else None
    if not answered:
        return figures | {"accuracy": None, "ci_low": None, "ci_high": None}
    low, high = wilson_interval(correct, len(answered))
    return figures | {"accuracy": correct / len(answered), "ci_low": low, "ci_high": high}
