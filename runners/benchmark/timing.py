"""Timing side by side: contenders take turns, a ratio is the median of ratios of neighbouring runs, and a roofline."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Result = TypeVar("Result")
QUARTILES = {"p25": 25, "p50": 50, "p75": 75}
# Of one operand: far larger than any cache, and a product long enough to reach full speed.
COPY_BYTES = {"cuda": 1 << 29, "cpu": 1 << 27}
GEMM_SIDE = {"cuda": 8192, "cpu": 1024}


def take_turns(
    contenders: Mapping[str, Callable[[], Result]],
    repeats: int,
    warmup: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, list[Result]]:
    """Runs every contender once a round, beginning with the next one each round: the first finds colder caches.

    Returns what each gave in the `repeats` rounds after `warmup` others. tick: called after every run.
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
    """How long the work takes, until the device has finished it."""
    _finish(device)
    began = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """{"p25", "p50", "p75"} of the values times scale."""
    return {name: float(np.percentile(values, share)) * scale for name, share in QUARTILES.items()}


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Quartiles of above / below, of which each pair was measured in one round."""
    return quartiles(np.divide(above, below).tolist())


@dataclass(frozen=True)
class Machine:
    """What a device was measured to do at best: bytes and floating-point operations per second."""

    bytes_per_s: float
    flops_per_s: float

    def roofline(self, parts: Iterable[tuple[float, float]]) -> float:
        """Seconds that parts of (operations, bytes) take at least, one after the other."""
        return sum(max(flops / self.flops_per_s, moved / self.bytes_per_s) for flops, moved in parts)


def measure_machine(device: torch.device, dtype: torch.dtype, repeats: int) -> Machine:
    """Bandwidth of a large copy, which reads and writes, and the rate of a large product in the model's dtype."""
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
        warmup=2,
    )
    return Machine(2 * size / float(np.median(found["copy"])), 2 * side**3 / float(np.median(found["product"])))


def rounded(figures: Any) -> Any:
    """The same with every float at six significant digits: no clock knows more."""
    if isinstance(figures, float):
        return float(f"{figures:.6g}")
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    return [rounded(value) for value in figures] if isinstance(figures, list) else figures
