"""Density peaks whose clusters have a bounded radius: each point that no centre is near becomes a centre.

Shapes: B rows of a batch, N points, D their width. Distances are 1 - cosine, in float32.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokensel.errors import TokenselError
from tokensel.functional.indexing import rank
from tokensel.functional.similarity import ROUNDING

# A cutoff is searched for in rounds: each tries so many, evenly spaced in the interval that the round before left.
ROUNDS = 3
TRIED = 16


def cosine_distances(points: Tensor, others: Tensor) -> Tensor:
    """1 - cosine of each pair: points [B, N, D], others [B, M, D] -> float32 [B, N, M], not below 0."""
    unit, units = normalize(points.float(), dim=-1), normalize(others.float(), dim=-1)
    return (1 - unit @ units.transpose(1, 2)).clamp_min(0)


def density_order(distances: Tensor) -> Tensor:
    """The points by falling density, the sum of exp(-(distance / 2)^2): [B, N, N] -> LongTensor[B, N]."""
    return rank((-(distances / 2).square()).exp().sum(2), ROUNDING)


def bounded_centers(distances: Tensor, order: Tensor, cutoff: float | Tensor) -> Tensor:
    """The points that are farther than `cutoff` from every centre that comes before them in `order`.

    distances: [B, N, N]. order: LongTensor[B, N]. cutoff: one for all rows, or [B]. Returns BoolTensor[B, N], which
    points are centres; all other points have a centre within the cutoff. O(N^2) in N steps.

    Source: Dhouib et al., PACT, CVPR 2025, https://arxiv.org/abs/2504.08966: the plain form of its clustering DBDPC.
    """
    limit = cutoff[:, None, None] if isinstance(cutoff, Tensor) else cutoff
    centres = _greedy(_ordered(distances, order) <= limit)
    return torch.zeros_like(centres).scatter(1, order, centres)


def _ordered(distances: Tensor, order: Tensor) -> Tensor:
    """The distances [B, N, N] with rows and columns in this order."""
    index = order.unsqueeze(1).expand_as(distances)
    return distances.gather(1, index.transpose(1, 2)).gather(2, index)


def _greedy(near: Tensor) -> Tensor:
    """Which points, in this order, are near no centre before them: BoolTensor[..., N, N] -> BoolTensor[..., N]."""
    free = torch.ones_like(near[..., 0])
    later = near.triu(1)
    for index in range(near.shape[-1]):
        free = free & ~(later[..., index, :] & free[..., index, None])
    return free


def bounded_centers_of_number(distances: Tensor, order: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Exactly `number` centres: at the largest cutoff found that leaves as many, the first of them in `order`.

    distances: [B, N, N]. order: LongTensor[B, N]. Returns BoolTensor[B, N], which points are centres, and the cutoff of
    each row, [B]. 48 cutoffs from 0 to 2 are tried for each row; where none leaves as many, as among equal points,
    the cutoff is -1: every point is a centre.

    Raises TokenselError unless 1 <= number <= N.
    """
    batch, count = order.shape
    if not 1 <= number <= count:
        raise TokenselError(f"number={number}: must be from 1 to {count}")
    ordered = _ordered(distances, order)
    least = distances.new_full((batch, 1), -1.0)
    low, width = distances.new_zeros(batch, 1), 2.0
    steps = torch.arange(TRIED, device=distances.device)
    for _ in range(ROUNDS):
        width = width / TRIED
        tried = low + steps * width
        enough = _greedy(ordered.unsqueeze(1) <= tried[..., None, None]).sum(2) >= number
        last = torch.where(enough, steps, -1).amax(1, keepdim=True)
        found = tried.gather(1, last.clamp_min(0))
        least = torch.where(last < 0, least, found)
        low = torch.where(last < 0, low, found)
    centres = _greedy(ordered <= least.unsqueeze(2))
    centres = centres & (centres.cumsum(1) <= number)
    return torch.zeros_like(centres).scatter(1, order, centres), least.squeeze(1)
