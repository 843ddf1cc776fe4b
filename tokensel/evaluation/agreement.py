"""When two answers to a question are the same, and how many of a point's answers are the full model's."""

from collections.abc import Mapping
from typing import Any

from tokensel.data import stable_hash


def said(record: Mapping[str, Any]) -> int:
    """A number that is equal for two records of one question if and only if both give the same answer.

    record: a line of predictions.jsonl. The choice's index; of what was written and names no choice, a number below -1
    that its words determine, where case, white space and a final full stop do not count; -1 for no answer at all. Of
    several turns, every turn must agree.
    """
    prediction = record.get("prediction")
    if type(prediction) is int and "turns" not in record:
        return prediction
    parts = [_part(turn) for turn in record.get("turns") or [record]]
    return -2 - int(stable_hash("\n".join(parts))[:15], 16) if any(parts) else -1


def _part(answer: Mapping[str, Any]) -> str:
    prediction = answer.get("prediction")
    if prediction is not None:
        return f"choice {prediction}"
    return " ".join((answer.get("text") or "").lower().split()).removesuffix(".").rstrip()
