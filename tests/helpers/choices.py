"""Which choices hang on no rounding, so that two ways to compute them must agree."""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

# Far above float32's rounding of a cosine, far below the distance of most random values.
ROUNDING = 1e-5


def least_gap(values: Iterable[float]) -> float:
    """The smallest difference between two of the values; infinite for fewer than two."""
    return min((high - low for low, high in pairwise(sorted(values))), default=math.inf)


def clear_steps(tokens: Tensor, order: Tensor, weights: Tensor | None = None) -> int:
    """How many choices of farthest point sampling hang on no rounding. tokens [N, D], order [M], weights [N].

    Checks in float64 that each choice is as far from those before it as any token is, up to 1e-5; with weights, that
    its product of distance and weight over the largest weight is as large.
    """
    scale = 1.0 if weights is None else weights.double() / weights.max()
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    nearest = torch.full((len(tokens),), torch.inf, dtype=torch.double)
    tied = []
    for before, chosen in pairwise(order.tolist()):
        nearest = torch.minimum(nearest, 1 - unit @ unit[before])
        reach = nearest * scale
        assert reach[chosen] >= reach.max() - ROUNDING
        tied.append(int((reach >= reach.max() - 2 * ROUNDING).sum()) > 1)
    return 1 + [*tied, True].index(True)
