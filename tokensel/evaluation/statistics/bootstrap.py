"""Bootstrap intervals of any statistic, and of ratios such as speed-ups."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any
from warnings import catch_warnings

import numpy as np
import scipy  # loads its submodules on first use

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics.values import Numbers, check_share


@dataclass(frozen=True)
class Estimate:
    """A statistic of n values (or pairs) with its bootstrap interval, in the statistic's own unit."""

    value: float
    ci_low: float
    ci_high: float
    n: int


def bootstrap_interval(
    values: Numbers,
    statistic: Callable[..., Any] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    method: str = "percentile",
    seed: int = 0,
) -> Estimate:
    """A statistic of values [n], such as paired latency ratios or correct answers, with its bootstrap interval.

    statistic   a function of (values, axis), such as np.mean or np.median
    method      "percentile", or "bca", which corrects bias and skew
    seed        of the generator that draws the resamples

    Source: Efron 1979; Efron 1987.

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
    """statistic(numerator) / statistic(denominator) with its bootstrap interval: a speed-up, or the accuracy retained.

    paired: whether values at the same index belong together (rounds of one run, the same questions) and are resampled
    together. Otherwise each array is resampled on its own, and their lengths may differ. For the other arguments see
    `bootstrap_interval`. The median of paired ratios is a different figure:
    bootstrap_interval(numerator / denominator, np.median).

    Raises TokenselError as bootstrap_interval does, for pairs of different length, or for a denominator of 0.
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
    check_share("level", level)
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
        raise TokenselError("denominator: its statistic is 0, so the ratio is undefined; give other values")
    settings: dict[str, Any] = {"confidence_level": level, "n_resamples": resamples, "batch": 500, "vectorized": True}

    def interval(name: str) -> tuple[float, float]:
        with np.errstate(all="ignore"), catch_warnings(action="ignore"):
            drawn = scipy.stats.bootstrap(arrays, statistic, paired=paired, method=name, rng=seed, **settings)
        return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)

    low, high = interval(method)
    if not (isfinite(low) and isfinite(high)):  # BCa is undefined if leaving out one value never changes the statistic
        low, high = interval("percentile")
    return Estimate(value, low, high, len(arrays[0]))
