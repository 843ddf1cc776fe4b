"""MMBench's rule for reading a choice out of an answer, without the judge that lmms-eval asks where the rule fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any
from unittest.mock import patch


def evaluator_of(aggregation: Callable[..., Any]) -> Any:
    """lmms-eval's MMBench evaluator that an aggregation uses; None if it uses none."""
    if not isinstance(aggregation, FunctionType):
        return None
    values = [aggregation.__globals__.get(name) for name in aggregation.__code__.co_names]
    return next((value for value in values if type(value).__name__ == "MMBench_Evaluator"), None)


def share(evaluator: Any, item: dict[str, Any]) -> float:
    """1.0 if the rule reads the right choice out of a single answer: of one turn of a circular question."""
    return float(evaluator.prefetch_answer(dict(item)) == item["answer"])


def undecided(evaluator: Any, items: list[dict[str, Any]]) -> int:
    """How many answers name no choice by the rule."""
    return sum(not evaluator.prefetch_answer(dict(item)) for item in items)


@contextmanager
def by_rule(evaluator: Any) -> Iterator[None]:
    """In the block, an answer that names no choice by the rule is wrong."""
    with patch.object(evaluator, "extract_answer_from_item", lambda item: ("", "")):
        yield
