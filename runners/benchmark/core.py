"""Part a: selection and aggregation against their formulas written out literally."""

from collections.abc import Callable, Sequence
from itertools import product

import torch

from runners.benchmark import timing
from runners.benchmark.output import Bar, TableRow
from runners.benchmark.settings import CORE_KEPT
from runners.benchmark.timing import paired_ratio, quartiles, seconds, take_turns


@torch.inference_mode()
def measure_core(sizes: Sequence[tuple[int, int]], device: torch.device, repeats: int) -> list[TableRow]:
    """A line per function and kept, on random tokens of each size (N, D)."""
    from runners.benchmark.literal import contenders  # imports rich, which may be missing

    cells = list(product(sizes, CORE_KEPT))
    bar = Bar("a", len(cells) * 3)
    rows = []
    for (count, hidden), kept in cells:
        tokens = torch.randn(count, hidden, generator=torch.Generator().manual_seed(0)).to(device)
        for name, (literal, ours) in contenders(tokens, kept).items():
            same = torch.allclose(literal().double().cpu(), ours().double().cpu(), atol=1e-4)
            times = take_turns(
                {"literal": _timed(literal, device), "ours": _timed(ours, device)}, repeats, timing.WARMUP
            )
            rows.append(
                {"function": name, "tokens": count, "hidden": hidden, "kept": kept}
                | {f"{who}_ms": quartiles(taken, 1000) for who, taken in times.items()}
                | {"ratio": paired_ratio(times["literal"], times["ours"]), "same": "yes" if same else "NO"}
            )
            bar.tick()
    return rows


def _timed(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    return lambda: seconds(work, device)
