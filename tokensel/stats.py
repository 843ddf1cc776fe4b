"""How sure an accuracy is, and whether two methods really differ on the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from tokensel.errors import TokenselError


@dataclass(frozen=True)
class McNemar:
    """Two methods on the same questions.

    b           questions that only the first answers right
    c           questions that only the second answers right
    p_value     exact and two-sided: chance of a split of b + c at least as uneven if both were equally good
    difference  accuracy of the first less that of the second, from -1 to 1
    """

    b: int
    c: int
    p_value: float
    difference: float


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) of an accuracy, `correct` out of `n`. n = 0 tells nothing: (0.0, 1.0).

    Holds its level near 0 and 1 and at small n, where the normal approximation does not.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Raises TokenselError unless 0 <= correct <= n and 0 < level < 1.
    """
    if not 0 <= correct <= n:
        raise TokenselError(f"correct={correct}: must be from 0 to n={n}")
    if not 0 < level < 1:
        raise TokenselError(f"level={level}: must lie between 0 and 1")
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(correct, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(a_correct: Sequence[bool] | np.ndarray, b_correct: Sequence[bool] | np.ndarray) -> McNemar:
    """Compares two methods that answered the same questions, given in the same order: two bool arrays [n].

    Only questions on which they disagree count. Without any, p is 1.
    Source: McNemar 1947; the exact form is a binomial test of b out of b + c against 1/2.

    Raises TokenselError for arrays of different shape or without questions.
    """
    first, second = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise TokenselError(
            f"mcnemar_exact: needs the same questions twice, got shapes {first.shape} and {second.shape}"
        )
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    p_value = float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    return McNemar(b=b, c=c, p_value=p_value, difference=(b - c) / len(first))
