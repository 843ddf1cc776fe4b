"""Confidence intervals of one accuracy, for independent and for clustered questions, and its spread over seeds."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import scipy  # loads its submodules on first use

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics.values import Booleans, Numbers, check_share


@dataclass(frozen=True)
class ClusteredAccuracy:
    """An accuracy over questions that come in clusters.

    n             number of questions
    effective_n   number of independent questions that would give the same standard error
    """

    accuracy: float
    standard_error: float
    ci_low: float
    ci_high: float
    n: int
    clusters: int
    effective_n: float


@dataclass(frozen=True)
class SeedSpread:
    """One grid point's accuracies over n seeds.

    standard_deviation   of the sample (divided by n - 1); None for a single seed
    """

    mean: float
    standard_deviation: float | None
    minimum: float
    maximum: float
    n: int


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval (low, high) of an accuracy of `correct` out of `n`; (0.0, 1.0) for n = 0.

    Keeps its coverage near 0 and 1 and at small n, where the normal approximation does not.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Raises TokenselError unless 0 <= correct <= n and 0 < level < 1.
    """
    if not 0 <= correct <= n:
        raise TokenselError(f"correct={correct}: must be from 0 to n={n}")
    check_share("level", level)
    if n == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(correct, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_at(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (low, high) of a share of n questions, where n need not be whole."""
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(mean: float, mean_of_squares: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval (low, high) of a mean of n shares from 0 to 1, given the mean of their squares too.

    Wilson's at the number of right or wrong answers that would have the same standard error; for shares of 0 and 1, the
    interval of `wilson_interval`.
    """
    variance = mean_of_squares - mean**2
    effective = float(n) if variance <= 1e-12 else n * mean * (1 - mean) / variance
    return wilson_at(mean, effective, level)


def clustered_standard_error(correct: Booleans, clusters: Sequence[Hashable] | np.ndarray) -> float:
    """The standard error of an accuracy when questions about the same picture are correlated.

    correct: bool array [n]; clusters: the picture of each question. The error is sqrt(sum over pictures of (sum over
    the picture's questions of (correct_i - accuracy))^2) / n. With one question each, that is sqrt(p (1 - p) / n).
    A single picture counts as a single question: sqrt(p (1 - p)).
    Source: Liang and Zeger 1986; for evaluations Miller 2024, "Adding error bars to evals" (arXiv 2411.00640).

    Raises TokenselError for arrays of different length or without questions.
    """
    return clustered_interval(correct, clusters).standard_error


def clustered_interval(
    correct: Booleans, clusters: Sequence[Hashable] | np.ndarray, level: float = 0.95
) -> ClusteredAccuracy:
    """The standard error and confidence interval of an accuracy whose questions come in clusters, such as pictures.

    correct: bool array [n]; clusters: the cluster of each question [n]. The interval is Wilson's at the effective
    number of questions: the number of independent questions with the same standard error, at most n, reduced when there
    are few clusters. With one question per cluster the result equals `wilson_interval`. If all answers are correct, or
    all wrong, each cluster counts as one question.
    Source: Korn and Graubard 1998; Dean and Pagano 2015 (Wilson's interval for clustered data).

    Raises TokenselError for arrays of different length, without questions, or unless 0 < level < 1.
    """
    check_share("level", level)
    right = np.asarray(correct, dtype=float)
    labels = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    n = len(right)
    if right.ndim != 1 or labels.shape != right.shape or not n:
        raise TokenselError(f"clusters: must name one for each question, got {labels.size} for {right.size}")
    share, groups = float(right.mean()), int(labels.max()) + 1
    error, effective = sqrt(share * (1 - share)), float(groups)
    if 0 < share < 1 and groups > 1:
        error = float(np.linalg.norm(np.bincount(labels, weights=right - share))) / n
        student = scipy.stats.t
        few_clusters = float(student.ppf((1 + level) / 2, n - 1) / student.ppf((1 + level) / 2, groups - 1))
        effective = max(1.0, min(n, share * (1 - share) / error**2 if error > 0 else n) * few_clusters**2)
    low, high = wilson_at(share, effective, level)
    return ClusteredAccuracy(
        accuracy=share,
        standard_error=error,
        ci_low=low,
        ci_high=high,
        n=n,
        clusters=groups,
        effective_n=effective,
    )


def seed_spread(accuracies: Numbers) -> SeedSpread:
    """Mean, standard deviation and range of one grid point's accuracies over seeds.

    Raises TokenselError if there is no accuracy, or one is outside 0 to 1.
    """
    values = np.asarray(accuracies, dtype=float)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise TokenselError(f"accuracies={list(accuracies)}: must be one or more fractions from 0 to 1")
    return SeedSpread(
        mean=float(values.mean()),
        standard_deviation=float(values.std(ddof=1)) if len(values) > 1 else None,
        minimum=float(values.min()),
        maximum=float(values.max()),
        n=len(values),
    )
