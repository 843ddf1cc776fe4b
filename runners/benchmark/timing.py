"""Paired timing: contenders alternate, and ratios are medians of ratios within a round. Also a roofline model."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Result = TypeVar("Result")
WARMUP = 2  # untimed rounds before the timed ones
QUARTILES = {"p25": 25, "p50": 50, "p75": 75}
# Sizes of one operand: a copy far larger than any cache, and a matrix product long enough to reach full speed.
COPY_BYTES = {"cuda": 1 << 29, "cpu": 1 << 27}
GEMM_SIDE = {"cuda": 8192, "cpu": 1024}


def take_turns(
    contenders: Mapping[str, Callable[[], Result]],
    repeats: int,
    warmup: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, list[Result]]:
    """Runs every contender once per round. The first place rotates, because the first run finds colder caches.

    Returns each contender's results in the `repeats` rounds after `warmup` rounds. tick: called after every run.
    """
    names = list(contenders)
    found: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(-warmup, repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = contenders[name]()
            if number >= 0:
                found[name].append(result)
            tick()
    return found


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The seconds that `work` takes, until the device has finished it."""
    _finish(device)
    began = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """{"p25", "p50", "p75"} of the values, multiplied by scale."""
    return {name: float(np.percentile(values, share)) * scale for name, share in QUARTILES.items()}


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Quartiles of numerator / denominator, where each pair was measured in the same round."""
    return quartiles(np.divide(numerator, denominator).tolist())


@dataclass(frozen=True)
class Machine:
    """A device's measured limits: bytes and FLOPs per second."""

    bytes_per_s: float
    flops_per_s: float

    def roofline(self, steps: Iterable[tuple[float, float]]) -> float:
        """The least seconds that consecutive steps of (FLOPs, bytes) can take."""
        return sum(max(flops / self.flops_per_s, moved / self.bytes_per_s) for flops, moved in steps)


def measure_machine(device: torch.device, dtype: torch.dtype, repeats: int) -> Machine:
    """The bandwidth of a large copy (reads and writes), and the FLOP rate of a large matrix product in this dtype."""
    size, side = COPY_BYTES[device.type], GEMM_SIDE[device.type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.rand(side, side, device=device).to(dtype)
    product = torch.empty_like(matrix)
    found = take_turns(
        {
            "copy": lambda: seconds(lambda: target.copy_(source), device),
            "product": lambda: seconds(lambda: torch.mm(matrix, matrix, out=product), device),
        },
        repeats,
        WARMUP,
    )
    return Machine(2 * size / float(np.median(found["copy"])), 2 * side**3 / float(np.median(found["product"])))


def rounded(figures: Any) -> Any:
    """The same figures with every float rounded to six significant digits, beyond which times are noise."""
    if isinstance(figures, float):
        return float(f"{figures:.6g}")
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    return [rounded(value) for value in figures] if isinstance(figures, list) else figures
