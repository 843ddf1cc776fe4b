"""Intervals and the paired test, against figures from the literature and their own definitions."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokensel.errors import TokenselError
from tokensel.stats import mcnemar_exact, wilson_interval


def test_wilson_matches_newcombes_table():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_holds_the_accuracy_and_stays_within_0_and_1(n, share):
    correct = round(share * n)
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    wide = wilson_interval(correct, n, level=0.99)
    assert wide[0] <= low
    assert high <= wide[1]


def test_wilson_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (0, -1), (1, 2, 0.0), (1, 2, 1.0), (1, 2, float("nan"))])
def test_wilson_refuses_the_impossible(arguments):
    with pytest.raises(TokenselError):
        wilson_interval(*arguments)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_tail_of_the_disagreements(pairs):
    a, b = np.array(pairs).T
    result = mcnemar_exact(a, b)
    only_a, only_b = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    assert (result.b, result.c) == (only_a, only_b)
    assert result.difference == pytest.approx(a.mean() - b.mean())
    n = only_a + only_b
    tail = 2 * sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert result.p_value == pytest.approx(min(1.0, tail))
    swapped = mcnemar_exact(b, a)
    assert (swapped.p_value, swapped.difference) == pytest.approx((result.p_value, -result.difference))


def test_mcnemar_refuses_different_questions():
    with pytest.raises(TokenselError, match="same questions"):
        mcnemar_exact([True], [True, False])
    with pytest.raises(TokenselError, match="same questions"):
        mcnemar_exact([], [])
