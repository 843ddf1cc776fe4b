"""McNemar's test between methods on the same questions: p-values, their correction, and the power of the test."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

import numpy as np
import scipy  # loads its submodules on first use

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics.values import Booleans, check_share

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class McNemar:
    """Two methods on the same questions.

    b           questions that only the first answers correctly
    c           questions that only the second answers correctly
    p_value     exact and two-sided: probability of a split of b + c at least this uneven if both were equally good
    difference  accuracy of the first minus that of the second, from -1 to 1
    """

    b: int
    c: int
    p_value: float
    difference: float


def mcnemar_exact(a_correct: Booleans, b_correct: Booleans) -> McNemar:
    """Compares two methods on the same questions in the same order: two bool arrays [n].

    Only questions on which the methods disagree count; if there are none, p is 1.
    Source: McNemar 1947; the exact form is a binomial test of b out of b + c against 1/2.

    Raises TokenselError for arrays of different shape, without questions, or with answers that are right in part.
    """
    first, second = np.asarray(a_correct), np.asarray(b_correct)
    if not all(np.isin(each, (0, 1)).all() for each in (first, second)):
        raise TokenselError("mcnemar_exact: needs answers that are right or wrong; for shares use compare_seeds")
    first, second = first.astype(bool), second.astype(bool)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise TokenselError(
            f"mcnemar_exact: needs the same questions twice, got shapes {first.shape} and {second.shape}"
        )
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    p_value = float(scipy.stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    return McNemar(b=b, c=c, p_value=p_value, difference=(b - c) / len(first))


def mcnemar_against(correct: Mapping[Key, Booleans], reference: Key) -> dict[Key, McNemar]:
    """Compares every other method with `reference` on the same questions; in each result the reference is second.

    correct: for each method a bool array [n], questions in the same order. The results keep that order.
    Correct the p-values with `holm` if there are many.

    Raises TokenselError for an unknown reference or arrays of different shape.
    """
    if reference not in correct:
        raise TokenselError(f"reference={reference!r}: must be one of {', '.join(map(repr, correct))}")
    return {key: mcnemar_exact(answers, correct[reference]) for key, answers in correct.items() if key != reference}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for multiple comparisons: bounds the probability of any false positive among them.

    The order is kept. None and NaN stand for comparisons that were not made; they are passed through and do not count.
    The k-th smallest of m p-values is multiplied by m - k + 1, raised to its predecessor's corrected value if that is
    larger, and capped at 1. Source: Holm 1979.

    Raises TokenselError for a p-value outside 0 to 1.
    """
    made = {index: p for index, p in enumerate(p_values) if p is not None and not np.isnan(p)}
    for p in made.values():
        if not 0 <= p <= 1:
            raise TokenselError(f"p_values={p}: must be from 0 to 1")
    corrected, highest = list(p_values), 0.0
    for rank, index in enumerate(sorted(made, key=lambda index: made[index])):
        highest = max(highest, min(1.0, (len(made) - rank) * made[index]))
        corrected[index] = highest
    return corrected


def minimum_detectable_difference(
    n: int,
    *,
    discordant: float | None = None,
    accuracy: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float | None:
    """The smallest difference in accuracy that a two-sided McNemar test on n shared questions detects with this power.

    discordant: the share of questions on which the two methods disagree. accuracy, instead of it: the accuracy p of
    both. Their answers are then taken to be independent, which makes the share 2 p (1 - p); two methods on the same
    model disagree less often than that.

    Solves Connor's n = (z_(1 - alpha/2) sqrt(s) + z_power sqrt(s - d^2))^2 / d^2 for the difference d at the share s.
    None if even d = s, where all disagreements favour one method, is not enough. The exact test needs slightly more.
    Source: Connor 1987, after Miettinen 1968.

    Raises TokenselError for n < 1, a share outside 0 to 1, or unless exactly one of discordant and accuracy is given.
    """
    if n < 1:
        raise TokenselError(f"n={n}: must be at least 1")
    check_share("power", power)
    check_share("alpha", alpha)
    share = _discordant_share(discordant, accuracy)
    normal = scipy.stats.norm
    alpha_term, z_power = float(normal.ppf(1 - alpha / 2)) * sqrt(share), float(normal.ppf(power))
    inside = share * (n + z_power**2) - alpha_term**2
    if inside < 0:
        return None
    difference = (alpha_term * sqrt(n) + z_power * sqrt(inside)) / (n + z_power**2)
    return difference if difference <= share else None


def _discordant_share(discordant: float | None, accuracy: float | None) -> float:
    if accuracy is not None and discordant is None:
        check_share("accuracy", accuracy)
        return 2 * accuracy * (1 - accuracy)
    if discordant is None or accuracy is not None:
        raise TokenselError(f"discordant={discordant}, accuracy={accuracy}: must be exactly one of the two")
    check_share("discordant", discordant, allow_one=True)
    return discordant
