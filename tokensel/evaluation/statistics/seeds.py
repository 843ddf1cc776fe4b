"""Accuracies and differences over several seeds: means, and intervals over questions and seeds."""

from dataclasses import dataclass
from functools import cache
from math import gcd, sqrt

import numpy as np
import scipy  # loads its submodules on first use

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics.intervals import wilson_at
from tokensel.evaluation.statistics.values import check_share


@dataclass(frozen=True)
class SeededAccuracy:
    """A method's mean accuracy over seeds, with an interval for other questions and other seeds.

    standard_deviation   of the accuracies of the seeds (divided by seeds - 1); None for a single seed
    effective_n          number of questions that one answer each would need for the same standard error
    """

    accuracy: float
    standard_deviation: float | None
    ci_low: float
    ci_high: float
    n: int
    seeds: int
    effective_n: float


@dataclass(frozen=True)
class SeededDifference:
    """The difference of two mean accuracies on the same questions, from -1 to 1, with its interval.

    p_value   two-sided, see `compare_seeds`
    """

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


def seeded_accuracy(correct: np.ndarray, level: float = 0.95) -> SeededAccuracy:
    """Mean and standard deviation over seeds of one method's accuracy, and its interval over questions and seeds.

    correct: bool array [seeds, n], the same questions in every row. The variance of the mean is that of the questions'
    mean answers plus `seed_variance`; the interval is Wilson's at the effective number of questions, widened by
    Student's t for few seeds. Where all seeds answer alike it is `wilson_interval`.
    Source: variance components of a crossed design (Searle, Casella and McCulloch 1992), Satterthwaite 1946.

    Raises TokenselError for an array of another form or without questions, or unless 0 < level < 1.
    """
    check_share("level", level)
    answers = _matrix(correct)
    seeds, n = answers.shape
    share = float(answers.mean())
    of_questions, of_seeds = float(answers.mean(0).var()) / n, seed_variance(answers)
    effective = float(n)
    if 0 < share < 1 and of_questions + of_seeds > 0:
        effective = share * (1 - share) / (of_questions + of_seeds)
        effective *= _widening(of_questions, n - 1, [(of_seeds, seeds - 1)], level) ** -2
    low, high = wilson_at(share, effective, level)
    spread = float(answers.mean(1).std(ddof=1)) if seeds > 1 else None
    return SeededAccuracy(share, spread, low, high, n, seeds, effective)


def seed_variance(correct: np.ndarray) -> float:
    """The part of the variance of the mean that comes from the seeds themselves: how much a seed shifts all answers.

    correct: [seeds, n]. The spread of the seeds' accuracies, less what chance alone gives n independent questions,
    divided by the number of seeds; at least 0, and 0 for a single seed.
    """
    answers = _matrix(correct)
    seeds, n = answers.shape
    if seeds == 1 or n == 1:
        return 0.0
    residual = answers - answers.mean(0) - answers.mean(1, keepdims=True) + answers.mean()
    by_chance = float((residual**2).sum()) / ((seeds - 1) * (n - 1)) / n
    return max(0.0, float(answers.mean(1).var(ddof=1)) - by_chance) / seeds


def compare_seeds(one: np.ndarray, other: np.ndarray, level: float = 0.95) -> SeededDifference:
    """Compares two methods on the same questions, each averaged over its own seeds.

    one, other: bool arrays [seeds, n], which may differ in the number of seeds. The p-value is that of the exact
    sign-flip test on the questions' differences, which is McNemar's exact test for one seed each; for answers that are
    right in part, float arrays, that of `paired_bootstrap_p`. If seeds differ by
    more than chance, the t test over questions and seeds is made too, and the larger p-value counts. The interval is
    Agresti and Min's, with the variance of the seeds added.

    Raises TokenselError for arrays with different questions or without any, or unless 0 < level < 1.
    """
    check_share("level", level)
    first, second = _matrix(one), _matrix(other)
    n = first.shape[1]
    if second.shape[1] != n:
        raise TokenselError(f"compare_seeds: needs the same questions twice, got {n} and {second.shape[1]}")
    paired = first.mean(0) - second.mean(0)
    middle, size = float(paired.sum()) / (n + 2), n + 2
    of_questions = (float((paired**2).sum() + 1) / size - middle**2) / size
    of_seeds = [(seed_variance(each), len(each) - 1) for each in (first, second)]
    total = of_questions + sum(part for part, _ in of_seeds)
    half = _normal_quantile((1 + level) / 2) * sqrt(total) * _widening(of_questions, n, of_seeds, level)
    if is_whole(first) and is_whole(second):
        p_value = sign_flip_p(first.sum(0).astype(int) * len(second) - second.sum(0).astype(int) * len(first))
    else:
        p_value = paired_bootstrap_p(paired)
    if total > of_questions:
        degrees = _degrees(of_questions, n, of_seeds)
        p_value = max(p_value, float(2 * scipy.stats.t.sf(abs(float(paired.mean())) / sqrt(total), degrees)))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return SeededDifference(float(paired.mean()), low, high, p_value, n)


def is_whole(correct: np.ndarray) -> bool:
    """Whether every answer is right or wrong, and none in part."""
    return correct.dtype == bool or bool(np.isin(correct, (0, 1)).all())


def paired_bootstrap_p(differences: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of a mean of paired differences [n]: twice the share of resampled means beyond 0, with one
    more counted on each side.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap"; the paired form, Koehn 2004.
    """
    values, counts = np.unique(differences, return_counts=True)
    if not values.any():
        return 1.0
    draw, n = np.random.default_rng(seed), len(differences)
    below = above = 1
    for begin in range(0, resamples, 500):  # so that many different values take little memory
        means = draw.multinomial(n, counts / n, size=min(500, resamples - begin)) @ values
        below, above = below + int((means <= 0).sum()), above + int((means >= 0).sum())
    return min(1.0, 2 * min(below, above) / (resamples + 1))


def sign_flip_p(differences: np.ndarray) -> float:
    """The two-sided p-value of a sum of integers [n] if each were as likely to have the opposite sign; exact.

    Source: Fisher 1935, "The design of experiments", section 21. For differences of -1, 0 and 1 it is McNemar's.
    """
    sizes, counts = (each.tolist() for each in np.unique(np.abs(differences[differences != 0]), return_counts=True))
    if not sizes:
        return 1.0
    unit = gcd(*sizes)
    distribution = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        step = size // unit
        part = np.zeros(2 * step * count + 1)
        part[:: 2 * step] = scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5)
        convolve = np.convolve if min(len(distribution), len(part)) < 1000 else scipy.signal.fftconvolve
        distribution = convolve(distribution, part)
    middle = len(distribution) // 2
    at = abs(int(np.sum(differences))) // unit
    if at == 0:
        return 1.0
    return float(min(1.0, max(0.0, distribution[: middle - at + 1].sum() + distribution[middle + at :].sum())))


@cache
def _normal_quantile(share: float) -> float:
    return float(scipy.stats.norm.ppf(share))


def _matrix(correct: np.ndarray) -> np.ndarray:
    answers = np.asarray(correct, dtype=float)
    if answers.ndim != 2 or not answers.size:
        raise TokenselError(f"correct: must be an array [seeds, n] with questions, got shape {answers.shape}")
    return answers


def _degrees(of_questions: float, degrees: float, of_seeds: list[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, each given with its own."""
    parts = [(of_questions, max(1.0, degrees)), *(part for part in of_seeds if part[0] > 0)]
    return sum(part for part, _ in parts) ** 2 / sum(part**2 / own for part, own in parts if part > 0)


def _widening(of_questions: float, degrees: float, of_seeds: list[tuple[float, int]], level: float) -> float:
    """How much wider Student's t makes an interval because there are few seeds; 1 if seeds add nothing."""
    if all(part == 0 for part, _ in of_seeds):
        return 1.0
    student, quantile = scipy.stats.t, (1 + level) / 2
    few = float(student.ppf(quantile, _degrees(of_questions, degrees, of_seeds)))
    return max(1.0, few / float(student.ppf(quantile, max(1.0, degrees))))
