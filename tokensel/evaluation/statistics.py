"""How sure a figure is, and whether two methods really differ on the same questions.

Accuracies, shares and levels are fractions from 0 to 1; correct answers are bool arrays [n], one for each question.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, TypeVar
from warnings import catch_warnings

import numpy as np
import scipy  # its parts are loaded when first used

from tokensel.errors import TokenselError

Booleans = Sequence[bool] | np.ndarray
Numbers = Sequence[float] | np.ndarray
Key = TypeVar("Key", bound=Hashable)


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


@dataclass(frozen=True)
class ClusteredAccuracy:
    """An accuracy over questions that come in clusters.

    effective_n   how many independent questions would tell as much
    """

    accuracy: float
    standard_error: float
    ci_low: float
    ci_high: float
    n: int
    clusters: int
    effective_n: float


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval, in the statistic's own unit; n values (or pairs) went in."""

    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class SeedSpread:
    """One point's accuracies over seeds. standard_deviation: of the sample (n - 1); None for a single seed."""

    mean: float
    standard_deviation: float | None
    minimum: float
    maximum: float
    n: int


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) of an accuracy, `correct` out of `n`. n = 0 tells nothing: (0.0, 1.0).

    Holds its level near 0 and 1 and at small n, where the normal approximation does not.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Raises TokenselError unless 0 <= correct <= n and 0 < level < 1.
    """
    if not 0 <= correct <= n:
        raise TokenselError(f"correct={correct}: must be from 0 to n={n}")
    _check_share("level", level)
    if n == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(correct, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(a_correct: Booleans, b_correct: Booleans) -> McNemar:
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
    p_value = float(scipy.stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    return McNemar(b=b, c=c, p_value=p_value, difference=(b - c) / len(first))


def mcnemar_against(correct: Mapping[Key, Booleans], reference: Key) -> dict[Key, McNemar]:
    """Every point but the reference, compared with it on the same questions, in the order given.

    correct: for each point a bool array [n], questions in the same order; reference: the key of the point to compare
    with. In each result "first" is the point and "second" the reference.

    Raises TokenselError for an unknown reference or different questions. See `holm` for many p-values at once.
    """
    if reference not in correct:
        raise TokenselError(f"reference={reference!r}: must be one of {', '.join(map(repr, correct))}")
    return {key: mcnemar_exact(row, correct[reference]) for key, row in correct.items() if key != reference}


def clustered_standard_error(correct: Booleans, clusters: Sequence[Hashable] | np.ndarray) -> float:
    """The standard error of an accuracy when questions about one picture stand or fall together.

    correct: bool array [n]; clusters: for each question its picture. sqrt(sum over pictures of (sum over their
    questions of (correct_i - accuracy))^2) / n; with one question a picture that is sqrt(p (1 - p) / n). A single
    picture tells no more than one question: sqrt(p (1 - p)).
    Source: Liang and Zeger 1986; for evaluations Miller 2024, "Adding error bars to evals" (arXiv 2411.00640).

    Raises TokenselError for arrays of different length or without questions.
    """
    return clustered_interval(correct, clusters).standard_error


def clustered_interval(
    correct: Booleans, clusters: Sequence[Hashable] | np.ndarray, level: float = 0.95
) -> ClusteredAccuracy:
    """An accuracy whose questions come in clusters, such as pictures: its standard error and interval.

    correct: bool array [n]; clusters [n]. The interval is Wilson's at the effective number of questions: as many
    independent ones as would have the same standard error, no more than n, fewer for few clusters. With one question
    a cluster it is `wilson_interval`. Where all are right, or all wrong, each cluster counts as one question.
    Source: Korn and Graubard 1998; Dean and Pagano 2015 (Wilson's interval for clustered data).

    Raises TokenselError for arrays of different length, without questions, or unless 0 < level < 1.
    """
    _check_share("level", level)
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
        few = float(student.ppf((1 + level) / 2, n - 1) / student.ppf((1 + level) / 2, groups - 1))
        effective = max(1.0, min(n, share * (1 - share) / error**2 if error > 0 else n) * few**2)
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * sqrt(share * (1 - share) / effective + (z / (2 * effective)) ** 2)
    return ClusteredAccuracy(
        accuracy=share,
        standard_error=error,
        ci_low=max(0.0, middle - half),
        ci_high=min(1.0, middle + half),
        n=n,
        clusters=groups,
        effective_n=effective,
    )


def bootstrap_interval(
    values: Numbers,
    statistic: Callable[..., Any] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    method: str = "percentile",
    seed: int = 0,
) -> Estimate:
    """A statistic of values [n], such as paired latency ratios or right answers, with its bootstrap interval.

    statistic: a function of (values, axis), such as np.mean or np.median. method: "percentile" or "bca", which
    corrects bias and skew. The resamples come from a generator of their own, seeded. Source: Efron 1979; Efron 1987.

    Raises TokenselError for fewer than two values, a value that is not finite, or an option out of range.
    """
    return _bootstrap((values,), statistic, False, level, resamples, method, seed)


def bootstrap_ratio(
    numerator: Numbers,
    denominator: Numbers,
    statistic: Callable[..., Any] = np.median,
    *,
    paired: bool = True,
    level: float = 0.95,
    resamples: int = 2000,
    method: str = "percentile",
    seed: int = 0,
) -> Estimate:
    """statistic(numerator) / statistic(denominator) with its bootstrap interval: a speedup, or the accuracy retained.

    paired: the two belong together one by one (turns of one run, the same questions) and are drawn together; else
    each is drawn for itself and their lengths may differ. The median of paired ratios is another figure:
    bootstrap_interval(numerator / denominator, np.median). Other arguments as there.

    Raises TokenselError for what bootstrap_interval does, pairs of different length, or a denominator of 0.
    """
    if paired and np.shape(numerator) != np.shape(denominator):
        raise TokenselError(f"paired=True: needs equal lengths, got {np.shape(numerator)} and {np.shape(denominator)}")

    def ratio(top: np.ndarray, bottom: np.ndarray, axis: int = -1) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return statistic(top, axis=axis) / statistic(bottom, axis=axis)

    return _bootstrap((numerator, denominator), ratio, paired, level, resamples, method, seed)


def _bootstrap(
    samples: tuple[Numbers, ...],
    statistic: Callable[..., Any],
    paired: bool,
    level: float,
    resamples: int,
    method: str,
    seed: int,
) -> Estimate:
    _check_share("level", level)
    if method not in ("percentile", "bca"):
        raise TokenselError(f"method={method!r}: must be 'percentile' or 'bca'")
    if resamples < 100:
        raise TokenselError(f"resamples={resamples}: must be at least 100")
    arrays = tuple(np.asarray(sample, dtype=float) for sample in samples)
    for array in arrays:
        if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
            raise TokenselError(f"values: must be two or more finite numbers, got {array.size} of shape {array.shape}")
    value = float(statistic(*arrays, axis=-1))
    if not isfinite(value):
        raise TokenselError("denominator: its statistic is 0, and nothing can be divided by it")
    settings: dict[str, Any] = {"confidence_level": level, "n_resamples": resamples, "batch": 500, "vectorized": True}

    def interval(name: str) -> tuple[float, float]:
        with np.errstate(all="ignore"), catch_warnings(action="ignore"):
            drawn = scipy.stats.bootstrap(arrays, statistic, paired=paired, method=name, rng=seed, **settings)
        return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)

    low, high = interval(method)
    if not (isfinite(low) and isfinite(high)):  # BCa has no answer where leaving one value out changes nothing
        low, high = interval("percentile")
    return Estimate(value, low, high, len(arrays[0]))


def seed_spread(accuracies: Numbers) -> SeedSpread:
    """Mean, standard deviation and range of one point's accuracies over seeds.

    Raises TokenselError without a seed, or for an accuracy outside 0 to 1.
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


def minimum_detectable_difference(
    n: int,
    *,
    discordant: float | None = None,
    accuracy: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float | None:
    """The smallest difference in accuracy that McNemar's test on n shared questions finds with this power.

    discordant: the share of questions on which the two disagree; or accuracy: of both, taken as independent, which
    makes the share 2 p (1 - p), more than methods on one model reach. Two-sided at alpha. Solves Connor's
    n = (z_(1 - alpha/2) sqrt(s) + z_power sqrt(s - d^2))^2 / d^2 for the difference d at the share s. None where not
    even d = s would do, all disagreements going one way. The exact test needs a little more.
    Source: Connor 1987, after Miettinen 1968.

    Raises TokenselError for n < 1, a share outside 0 to 1, or unless exactly one of discordant and accuracy is given.
    """
    if n < 1:
        raise TokenselError(f"n={n}: must be at least 1")
    _check_share("power", power)
    _check_share("alpha", alpha)
    share = _discordant_share(discordant, accuracy)
    normal = scipy.stats.norm
    alarm, found = float(normal.ppf(1 - alpha / 2)) * sqrt(share), float(normal.ppf(power))
    inside = share * (n + found**2) - alarm**2
    if inside < 0:
        return None
    difference = (alarm * sqrt(n) + found * sqrt(inside)) / (n + found**2)
    return difference if difference <= share else None


def _discordant_share(discordant: float | None, accuracy: float | None) -> float:
    if accuracy is not None and discordant is None:
        _check_share("accuracy", accuracy)
        return 2 * accuracy * (1 - accuracy)
    if discordant is None or accuracy is not None:
        raise TokenselError(f"discordant={discordant}, accuracy={accuracy}: must be exactly one of the two")
    _check_share("discordant", discordant, highest=True)
    return discordant


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for being many, so that the chance of any false alarm among them stays below the level.

    In the order given; None and NaN, comparisons that were not made, stay and do not count. The k-th smallest of m
    becomes its (m - k + 1)-fold, at least the one before it and at most 1. Source: Holm 1979.

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


def _check_share(name: str, value: float, highest: bool = False) -> None:
    if not (0 < value < 1 or (highest and value == 1)):
        raise TokenselError(f"{name}={value}: must lie between 0 and 1")
