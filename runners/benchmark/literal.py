"""Compares the speed of the functional core with its formulas written out literally.

The literal versions transcribe the original's formulas: normalised copies, the whole N x N matrix of cosines, a batch
of one, and Python loops over the kept tokens and the clusters. Both versions get the same random float32 tokens and
alternate, so that each ratio is a median of paired ratios. Their results are compared as well.

    python -m runners.benchmark.literal                                     # 576 tokens of size 4096, one thread
    python -m runners.benchmark.literal --hidden 192 --kept 8,64 --repeats 51

The last line of standard output is JSON: the milliseconds of both and their ratio for every function and kept.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from tokensel.errors import TokenselError, printable
from tokensel.functional import cross_attention, farthest_point_sampling, tome_centers

START = 0
TEMPERATURE = 0.1
ITERATIONS = 3


def literal_cosines(tokens: Tensor) -> Tensor:
    """The cosines of all pairs of tokens: [N, D] -> [N, N]."""
    unit = normalize(tokens, dim=-1)
    return unit @ unit.T


def literal_fps(tokens: Tensor, kept: int, start: int = START) -> Tensor:
    """Farthest point sampling from the whole matrix of distances: tokens [N, D] -> LongTensor[M]."""
    distance = 1 - literal_cosines(tokens)
    nearest = torch.full_like(distance[0], torch.inf)
    order = [start]
    for _ in range(kept - 1):
        nearest = torch.minimum(nearest, distance[order[-1]])
        order.append(int(nearest.argmax()))
    return torch.tensor(order)


def literal_tome(tokens: Tensor, kept: int) -> Tensor:
    """Degrees as sums over the whole matrix, then rounds of assigning and moving: tokens [N, D] -> LongTensor[M]."""
    cosines = literal_cosines(tokens)
    degree = cosines.sum(1)
    centers = degree.topk(kept).indices
    for _ in range(ITERATIONS):
        cluster = cosines[:, centers].argmax(1)
        for index in range(kept):
            members = (cluster == index).nonzero().squeeze(1)
            if len(members):
                centers[index] = members[degree[members].argmax()]
    return centers


def literal_cross_attention(queries: Tensor, tokens: Tensor) -> Tensor:
    """Cross attention: queries [M, D], tokens [N, D] -> [M, D]."""
    weights = (normalize(queries, dim=-1) @ normalize(tokens, dim=-1).T / TEMPERATURE).softmax(-1)
    return weights @ tokens


def contenders(tokens: Tensor, kept: int) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    """Each function as (literal, ours), on tokens [N, D]."""
    batch = tokens.unsqueeze(0)
    queries = tokens[farthest_point_sampling(batch, kept, START)[0]]
    return {
        "fps": (lambda: literal_fps(tokens, kept), lambda: farthest_point_sampling(batch, kept, START)[0]),
        "tome": (lambda: literal_tome(tokens, kept), lambda: tome_centers(batch, kept, ITERATIONS)[0]),
        "cross_attention": (
            lambda: literal_cross_attention(queries, tokens),
            lambda: cross_attention(queries.unsqueeze(0), batch, TEMPERATURE)[0],
        ),
    }


def milliseconds(work: Callable[[], Tensor], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return 1000 * (clock() - start)


@torch.inference_mode()
def compare(
    tokens: Tensor, kept: int, repeats: int, warmup: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float | bool]]:
    """For every function: literal_ms and ours_ms (medians), ratio (median of literal / ours), same (equal results).

    tokens [N, D]; clock: returns seconds; time.thread_time excludes the time of other programs.
    """
    figures: dict[str, dict[str, float | bool]] = {}
    for name, pair in contenders(tokens, kept).items():
        runs = [[milliseconds(work, clock) for work in pair] for _ in range(warmup + repeats)]
        times = np.array(runs[warmup:])
        literal, ours = (work().double() for work in pair)
        medians = np.median(times, axis=0)
        figures[name] = {
            "literal_ms": round(float(medians[0]), 4),
            "ours_ms": round(float(medians[1]), 4),
            "ratio": round(float(np.median(times[:, 0] / times[:, 1])), 3),
            "same": torch.allclose(literal, ours, atol=1e-4),
        }
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=576, help="visual tokens (default: 576)")
    parser.add_argument("--hidden", type=int, default=4096, help="hidden size (default: 4096)")
    parser.add_argument("--kept", default="8,64", help="kept tokens, comma-separated (default: 8,64)")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of each (default: 15)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random tokens (default: 0)")
    options = parser.parse_args(argv)
    try:
        kept = _kept(options.kept, options.tokens)
        for name in ("hidden", "repeats", "threads"):
            if getattr(options, name) < 1:
                raise TokenselError(f"{name}={getattr(options, name)}: must be at least 1")
    except TokenselError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    tokens = torch.randn(options.tokens, options.hidden, generator=torch.Generator().manual_seed(options.seed))
    figures = {count: compare(tokens, count, options.repeats) for count in kept}
    _print(figures)
    print(json.dumps(vars(options) | {"torch": torch.__version__, "kept": figures}), flush=True)
    return 0


def _kept(text: str, tokens: int) -> list[int]:
    try:
        kept = [int(part) for part in text.split(",")]
    except ValueError:
        kept = [0]
    if not all(1 <= count < tokens for count in kept):
        raise TokenselError(f"kept={text}: must be whole numbers from 1 to {tokens - 1}, separated by commas")
    return kept


def _print(figures: dict[int, dict[str, dict[str, float | bool]]]) -> None:
    table = Table("function", "kept", "literal ms", "ours ms", "ratio", "same result")
    for kept, functions in figures.items():
        for name, times in functions.items():
            same = "yes" if times["same"] else "NO"
            table.add_row(
                name, str(kept), f"{times['literal_ms']:.2f}", f"{times['ours_ms']:.2f}", f"{times['ratio']:.1f}", same
            )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
