"""Intervals and tests against published figures, their own definitions, and simulation."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import (
    SeedSpread,
    bootstrap_interval,
    bootstrap_ratio,
    clustered_interval,
    clustered_standard_error,
    holm,
    mcnemar_against,
    mcnemar_exact,
    minimum_detectable_difference,
    seed_spread,
    wilson_interval,
)


def test_wilson_matches_newcombes_table():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_contains_the_accuracy_and_stays_within_0_and_1(n, share):
    correct = round(share * n)
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    wide = wilson_interval(correct, n, level=0.99)
    assert wide[0] <= low
    assert high <= wide[1]


def test_wilson_without_questions_is_0_to_1():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (0, -1), (1, 2, 0.0), (1, 2, 1.0), (1, 2, float("nan"))])
def test_wilson_refuses_impossible_arguments(arguments):
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


def test_comparing_many_methods_with_a_reference_equals_comparing_each_pair():
    generator = np.random.default_rng(3)
    correct = {name: generator.random(80) < share for name, share in [("full", 0.8), ("fps", 0.6), ("fastv", 0.7)]}
    against = mcnemar_against(correct, "fps")
    assert list(against) == ["full", "fastv"]
    assert against["full"] == mcnemar_exact(correct["full"], correct["fps"])
    assert against["full"].difference > 0
    with pytest.raises(TokenselError, match=r"reference='none': must be one of 'full', 'fps', 'fastv'"):
        mcnemar_against(correct, "none")


def slow_clustered_error(correct, clusters):
    """Miller 2024's formula: the plain variance plus the covariance of every pair within a cluster."""
    n, mean = len(correct), np.mean(correct)
    pairs = sum(
        (correct[i] - mean) * (correct[j] - mean)
        for i in range(n)
        for j in range(n)
        if i != j and clusters[i] == clusters[j]
    )
    return np.sqrt(max(0.0, mean * (1 - mean) / n + pairs / n**2))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), min_size=2, max_size=25))
def test_clustered_error_adds_every_pair_of_a_cluster_to_the_plain_error(pairs):
    correct, clusters = [float(right) for right, _ in pairs], [name for _, name in pairs]
    error = clustered_standard_error(correct, clusters)
    if len(set(clusters)) > 1:
        assert error == pytest.approx(slow_clustered_error(correct, clusters), abs=1e-7)
    else:
        assert error == pytest.approx(np.std(correct))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([0.9, 0.95, 0.99]))
def test_with_one_question_per_cluster_the_interval_is_wilsons(correct, level):
    n, share = len(correct), np.mean(correct)
    result = clustered_interval(correct, [f"picture {i}" for i in range(n)], level)
    assert result.standard_error == pytest.approx(np.sqrt(share * (1 - share) / n))
    assert (result.ci_low, result.ci_high) == pytest.approx(wilson_interval(sum(correct), n, level), abs=1e-9)
    assert (result.n, result.clusters, result.effective_n) == (n, n, pytest.approx(n))


def test_repeating_every_question_adds_no_certainty():
    correct = np.arange(40) % 3 == 0
    once, twice = clustered_interval(correct, range(40)), clustered_interval(np.tile(correct, 2), [*range(40)] * 2)
    assert twice.standard_error == pytest.approx(once.standard_error)
    assert twice.effective_n == pytest.approx(40, rel=0.05)
    assert (twice.ci_low, twice.ci_high) == pytest.approx((once.ci_low, once.ci_high), abs=5e-3)
    all_right = clustered_interval([True] * 80, [*range(40)] * 2)
    assert (all_right.ci_low, all_right.ci_high) == pytest.approx(wilson_interval(40, 40))


def test_few_clusters_widen_the_interval_and_balanced_ones_never_narrow_it():
    few = (t.ppf(0.975, 79) / t.ppf(0.975, 7)) ** 2
    clusters = np.repeat(np.arange(8), 10)
    result = clustered_interval(np.arange(80) < 52, clusters)
    assert result.effective_n == pytest.approx(0.65 * 0.35 / result.standard_error**2 * few)
    for one_more in (False, True):  # half of every cluster right: errors far below those of 80 questions
        balanced = (np.arange(80) % 2 == 0) | (one_more & (np.arange(80) == 1))
        assert clustered_interval(balanced, clusters).effective_n == pytest.approx(80 * few)


@pytest.mark.slow
def test_the_clustered_interval_keeps_its_coverage_where_the_plain_one_does_not():
    generator, level, clustered, plain = np.random.default_rng(0), 0.95, 0, 0
    clusters = np.repeat(np.arange(40), 6)
    for _ in range(400):
        chance = np.repeat(generator.beta(1.4, 0.6, 40), 6)  # pictures are hard or easy; 0.7 on average
        correct = generator.random(240) < chance
        result = clustered_interval(correct, clusters, level)
        clustered += result.ci_low <= 0.7 <= result.ci_high
        low, high = wilson_interval(int(correct.sum()), 240, level)
        plain += low <= 0.7 <= high
    assert 0.92 <= clustered / 400 <= 0.985
    assert plain / 400 < 0.8


@pytest.mark.parametrize(
    "arguments", [([], []), ([True], ["a", "b"]), ([True, False], "ab", 1.0), ([[True]], [["a"]]), ([True], [])]
)
def test_clusters_that_do_not_fit_are_refused(arguments):
    with pytest.raises(TokenselError, match=r"clusters:|level="):
        clustered_interval(*arguments)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_of_a_mean_is_the_normal_interval_of_many_values(method):
    values = np.random.default_rng(1).normal(10, 2, 400)
    result = bootstrap_interval(values, np.mean, method=method)
    half = 1.96 * values.std() / 20
    assert (result.value, result.n) == (pytest.approx(values.mean()), 400)
    assert (result.ci_low, result.ci_high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap_interval(values, np.mean, method=method) == result
    assert bootstrap_interval(values, np.mean, method=method, seed=1) != result


@pytest.mark.slow
@pytest.mark.parametrize(("paired", "method"), [(True, "percentile"), (True, "bca"), (False, "percentile")])
def test_ratio_intervals_keep_their_coverage_of_the_true_speedup(paired, method):
    generator, held = np.random.default_rng(2), 0
    for seed in range(200):
        noise = generator.lognormal(0, 0.1, 25)
        full, reduced = 30 * noise, 20 * generator.lognormal(0, 0.1, 25) * (noise if paired else 1)
        result = bootstrap_ratio(full, reduced, paired=paired, method=method, resamples=300, level=0.9, seed=seed)
        held += result.ci_low <= 1.5 <= result.ci_high
    assert 0.82 <= held / 200 <= 0.97


def test_pairs_are_resampled_together():
    noise = np.random.default_rng(4).lognormal(0, 1, 50)
    together, apart = (bootstrap_ratio(3 * noise, noise, np.mean, paired=paired) for paired in (True, False))
    assert (together.value, together.ci_low, together.ci_high) == pytest.approx((3, 3, 3))
    assert apart.ci_high - apart.ci_low > 1
    right = np.array([1, 1, 0, 1] * 20)
    retained = bootstrap_ratio(right * (np.arange(80) % 5 > 0), right, np.mean)
    assert 0 < retained.ci_low < retained.value < retained.ci_high < 1


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equal_values_give_an_interval_of_length_0(method):
    result = bootstrap_interval([2.0, 2.0, 2.0], np.median, method=method)
    assert (result.value, result.ci_low, result.ci_high) == (2, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1.0]), "two or more"),
        (lambda: bootstrap_interval([1.0, np.nan]), "finite"),
        (lambda: bootstrap_interval([1.0, 2.0], method="t"), "method='t'"),
        (lambda: bootstrap_interval([1.0, 2.0], resamples=9), "resamples=9"),
        (lambda: bootstrap_interval([1.0, 2.0], level=1), "level=1"),
        (lambda: bootstrap_ratio([1.0, 2.0], [1.0]), "equal lengths"),
        (lambda: bootstrap_ratio([1.0, 2.0], [0.0, 0.0]), "denominator"),
        (lambda: seed_spread([]), "one or more"),
        (lambda: seed_spread([0.5, 1.2]), "fractions"),
        (lambda: holm([0.1, 1.2]), "p_values=1.2"),
        (lambda: minimum_detectable_difference(0, discordant=0.1), "n=0"),
        (lambda: minimum_detectable_difference(10), "exactly one"),
        (lambda: minimum_detectable_difference(10, discordant=0.1, accuracy=0.7), "exactly one"),
        (lambda: minimum_detectable_difference(10, discordant=1.1), r"discordant=1\.1"),
        (lambda: minimum_detectable_difference(10, accuracy=1.0), r"accuracy=1\.0"),
        (lambda: minimum_detectable_difference(10, discordant=0.1, power=1), "power=1"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(TokenselError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_spread_over_seeds():
    assert seed_spread([0.5, 0.6, 0.7]) == SeedSpread(
        mean=pytest.approx(0.6), standard_deviation=pytest.approx(0.1), minimum=0.5, maximum=0.7, n=3
    )
    assert seed_spread([0.5]).standard_deviation is None


def test_detectable_difference_matches_connors_example():
    # Connor 1987, page 209: shares 0.45 and 0.05 of disagreement, 0.05 two-sided, power 0.8: 23 pairs.
    assert minimum_detectable_difference(22, discordant=0.5) > 0.4 >= minimum_detectable_difference(23, discordant=0.5)
    assert minimum_detectable_difference(5, discordant=0.1) is None
    assert minimum_detectable_difference(1, discordant=0.5) is None
    independent = minimum_detectable_difference(2017, discordant=0.42)
    assert minimum_detectable_difference(2017, accuracy=0.7) == pytest.approx(independent)


@given(st.integers(20, 5000), st.floats(0.05, 1), st.sampled_from([0.3, 0.5, 0.8, 0.95]))
def test_connors_formula_gives_back_the_number_of_questions(n, share, power):
    d = minimum_detectable_difference(n, discordant=share, power=power)
    if d is not None:
        needed = ((1.959964 * np.sqrt(share) + norm.ppf(power) * np.sqrt(share - d * d)) / d) ** 2
        assert needed == pytest.approx(n, rel=1e-4)


def test_the_detectable_difference_is_detected_with_the_stated_power():
    n, share, generator, found = 600, 0.2, np.random.default_rng(5), 0
    d = minimum_detectable_difference(n, discordant=share)
    for _ in range(400):
        drawn = generator.random(n)
        better, worse = drawn < (share + d) / 2, drawn > 1 - (share - d) / 2
        found += mcnemar_exact(better, worse).p_value < 0.05
    assert 0.7 <= found / 400 <= 0.85  # the exact test is conservative, so its power is slightly lower


def test_holm_matches_a_worked_example_and_keeps_missing_p_values():
    # By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and never below the one before.
    assert holm([0.01, None, 0.04, 0.03, float("nan"), 0.005])[:4] == pytest.approx([0.03, None, 0.06, 0.06])
    assert np.isnan(holm([0.1, float("nan")])[1])
    assert holm([]) == []
    assert holm([None]) == [None]


def test_holm_is_statsmodels_holm():
    p_values = np.random.default_rng(6).random(30) ** 4
    p_values[7:9] = p_values[3]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_as_the_step_down_procedure_does(p_values):
    corrected, order = holm(p_values), np.argsort(p_values, kind="stable")
    rejecting = True
    for rank, index in enumerate(order):
        rejecting = rejecting and p_values[index] * (len(p_values) - rank) <= 0.05
        assert (corrected[index] <= 0.05) == rejecting
