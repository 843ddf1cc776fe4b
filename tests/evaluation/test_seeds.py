"""Figures over seeds equal plain numpy and hold in simulations; a best-of claims no more than it may."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import best_of, compare_seeds, mcnemar_exact, seeded_accuracy, wilson_interval
from tokensel.evaluation.statistics.seeds import seed_variance, sign_flip_p


def drawn(generator, seeds, n, question=1.0, seed=0.0, shift=0.0):
    """Answers of a crossed design: some questions are harder, and some seeds are better."""
    hard = generator.normal(0, question, n)
    better = generator.normal(0, seed, (seeds, 1))
    return generator.random((seeds, n)) < 1 / (1 + np.exp(-(hard + better + shift)))


def test_mean_and_deviation_over_seeds_are_numpys():
    answers = drawn(np.random.default_rng(0), 4, 50)
    found = seeded_accuracy(answers)
    each = [float(np.mean(row)) for row in answers]
    assert found.accuracy == pytest.approx(np.mean(each))
    assert found.standard_deviation == pytest.approx(np.std(each, ddof=1))
    assert (found.n, found.seeds) == (50, 4)


def test_the_variance_of_seeds_is_that_of_a_crossed_design():
    """In words of the analysis of variance: (mean square of seeds - mean square of the rest) / (seeds x questions)."""
    answers = drawn(np.random.default_rng(1), 5, 40, seed=1.0).astype(float)
    seeds, n = answers.shape
    of_seeds = n * sum((row.mean() - answers.mean()) ** 2 for row in answers) / (seeds - 1)
    rest = 0.0
    for one, other in product(range(seeds), range(n)):
        rest += (answers[one, other] - answers[one].mean() - answers[:, other].mean() + answers.mean()) ** 2
    rest /= (seeds - 1) * (n - 1)
    assert of_seeds > rest
    assert seed_variance(answers) == pytest.approx((of_seeds - rest) / (seeds * n))


def test_seeds_that_agree_give_wilsons_interval():
    row = np.arange(30) < 12
    for seeds in (1, 3):
        found = seeded_accuracy(np.tile(row, (seeds, 1)))
        assert (found.ci_low, found.ci_high) == pytest.approx(wilson_interval(12, 30))
        assert found.effective_n == pytest.approx(30)


@pytest.mark.parametrize(("seed", "least"), [(0.0, 0.92), (0.8, 0.87)])
def test_the_interval_covers_the_truth_for_new_questions_and_seeds(seed, least):
    generator = np.random.default_rng(2)
    truth = drawn(generator, 4000, 400, seed=seed).mean()
    covered = 0
    for _ in range(300):
        found = seeded_accuracy(drawn(generator, 3, 60, seed=seed))
        covered += found.ci_low <= truth <= found.ci_high
    assert covered / 300 >= least


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_sign_flip_test_equals_the_count_over_all_signs(values):
    sums = [abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
            for signs in product((-1, 1), repeat=len(values))]  # fmt: skip
    assert sign_flip_p(np.array(values)) == pytest.approx(np.mean([each >= abs(sum(values)) for each in sums]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_one_seed_each_is_mcnemars_exact_test(pairs):
    one, other = np.array(pairs).T
    found, expected = compare_seeds(one[None], other[None]), mcnemar_exact(one, other)
    assert found.p_value == pytest.approx(expected.p_value)
    assert found.difference == pytest.approx(expected.difference)


def test_a_difference_over_seeds_is_that_of_the_means_and_keeps_its_size_at_no_difference():
    generator = np.random.default_rng(3)
    wrong, inside = 0, 0
    for _ in range(200):
        hard = generator.normal(0, 1, 80)
        one, other = (generator.random((seeds, 80)) < 1 / (1 + np.exp(-hard)) for seeds in (1, 3))
        found = compare_seeds(one, other)
        assert found.difference == pytest.approx(one.mean() - other.mean())
        wrong += found.p_value < 0.05
        inside += found.ci_low <= 0 <= found.ci_high
    assert wrong / 200 <= 0.08
    assert inside / 200 >= 0.92


def test_seeds_that_differ_more_than_chance_make_a_difference_less_certain():
    n = 200
    steady = np.ones((3, n), dtype=bool)
    jumping = np.array([np.arange(n) < share * n for share in (0.2, 0.6, 1.0)])
    found = compare_seeds(steady, jumping)
    assert found.p_value > 0.05, "three seeds of 20, 60 and 100% do not show that 100% is better"
    assert found.ci_low < 0
    assert sign_flip_p(3 * steady.sum(0) - 3 * jumping.sum(0)) < 1e-9


def test_best_of_ranks_and_multiplies_by_the_number_of_comparisons():
    rows = [np.arange(100)[None] < right for right in (60, 80, 70)]
    found = best_of(rows)
    assert found.order == [1, 2, 0]
    assert found.accuracies == [0.8, 0.7, 0.6]
    assert found.p_corrected[1] == pytest.approx(2 * mcnemar_exact(rows[1][0], rows[2][0]).p_value)
    assert found.tied == [1]
    assert best_of(rows, comparisons=40).tied == [1, 2]


def test_equal_accuracies_tie_in_the_order_given():
    rows = [np.array([[True, False, True]]), np.array([[False, True, True]])]
    assert best_of(rows).order == best_of(rows).tied == [0, 1]


def test_the_truly_best_of_many_equals_is_rarely_left_out():
    generator = np.random.default_rng(4)
    left_out = sum(len(best_of([generator.random((1, 60)) < 0.5 for _ in range(8)]).tied) < 8 for _ in range(60))
    assert left_out / 60 <= 0.25, "some of 8 equals may fall behind, but no single one often"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seeded_accuracy(np.zeros((0, 4))), "array"),
        (lambda: seeded_accuracy(np.zeros(4)), "array"),
        (lambda: compare_seeds(np.zeros((1, 3)), np.zeros((1, 4))), "same questions"),
        (lambda: compare_seeds(np.zeros((1, 3)), np.zeros((1, 3)), level=1.0), "level=1.0"),
        (lambda: best_of([]), "one candidate"),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(TokenselError, match=message):
        call()


def test_all_right_or_all_wrong_still_has_an_interval():
    found = seeded_accuracy(np.ones((3, 10)))
    assert (found.accuracy, found.standard_deviation) == (1.0, 0.0)
    assert (found.ci_low, found.ci_high) == pytest.approx(wilson_interval(10, 10))
