"""Farthest point sampling under the distance 1 - cosine.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Distances are float32; the N x N matrix is
never held.
"""

from itertools import pairwise

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import farthest_cpu, kernels
from tokensel.functional.indexing import check_kept, first_of_best, rank
from tokensel.functional.similarity import (
    DEGREE_ROUNDING,
    ROUNDING,
    STEP,
    cosine_to,
    degrees,
    inverse_norms,
    is_on_cpu,
    unit_rows,
)

# Rows of the cosine matrix computed at a time for start="peripheral".
PERIPHERAL_BLOCK = 64


@torch.no_grad()
def farthest_point_sampling(
    tokens: Tensor,
    kept: int,
    start: int | str | Tensor | None = None,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Farthest point sampling under the distance 1 - cosine: each choice is the token farthest from all earlier ones.

    tokens: [B, N, D] -> LongTensor[B, min(kept, N)] in the order of choice; the first is the start. Ties go to the
    lowest index. kept >= N returns arange(N); kept=0 still returns the start, as the original code does. Chosen tokens
    are not excluded: once only duplicates of chosen tokens (or zero vectors) are left, an index can come twice, as in
    the original code. O(N M D).

    start: None = random in each row (from generator); an int = that index in all rows; LongTensor[B] = one per row;
    "medoid" = the token nearest to all others; "peripheral" = the token with the largest nearest-neighbour distance.

    weights: [B, N], at least 0; only their ratios within a row matter. Each choice is then the token with the largest
    weight * distance, and the medoid the token with the largest sum over j of weight_j * cos(i, j); other starts do not
    depend on them. Equal weights choose what None chooses. A token of weight 0 is chosen only as the start, or once the
    products of all tokens are 0 but for rounding.

    Implementation: on CUDA one Triton kernel (kernels.py) where Triton works, without weights; on a CPU a lazy
    evaluation that skips distances which cannot change a choice (farthest_cpu.py); elsewhere one matrix-vector product
    per choice. Distances within 1e-7 of the largest tie; only the kernel compares exactly. Weights are first divided by
    their row's largest, and products with distances tie likewise.

    Raises TokenselError for kept < 0, an unknown start or weights of another shape. Source: Gonzalez 1985; Eldar et
    al. 1997.
    """
    check_kept(kept, least=0)
    batch, count, _ = tokens.shape
    if kept >= count:
        return torch.arange(count, device=tokens.device).repeat(batch, 1)
    values = tokens.float()
    inverse = inverse_norms(values)
    if weights is not None:
        weights = _relative(weights, inverse)
    first = _start(values, inverse, start, generator, weights)
    if weights is None and tokens.is_cuda and kernels.usable(tokens.device, farthest_points):
        return kernels.farthest_points(tokens, inverse, first, kept)
    if is_on_cpu(values):
        return farthest_cpu.farthest_points(values, inverse, first, kept, weights)
    return farthest_points(values, inverse, first, kept, weights)


def farthest_points(tokens: Tensor, inverse: Tensor, start: Tensor, kept: int, weights: Tensor | None = None) -> Tensor:
    """The reference implementation: one matrix-vector product per choice.

    tokens float32 [B, N, D], their inverse norms [B, N], start LongTensor[B, 1], weights float32 [B, N] or None for
    equal ones -> LongTensor[B, max(kept, 1)], the start first. Operations write into preallocated buffers, because
    allocation is a large part of such a short step.
    """
    batch, count, size = tokens.shape
    flat, scales, across = tokens.flatten(0, 1), inverse.flatten(), tokens.transpose(1, 2)
    offset = torch.arange(0, batch * count, count, device=tokens.device)
    one, distance = torch.ones_like(inverse), torch.empty_like(inverse)
    nearest = torch.full_like(inverse, torch.inf)
    query, scale = tokens.new_empty(batch, size), inverse.new_empty(batch)
    order = start.new_empty(max(kept, 1), batch)
    order[0] = start.squeeze(1)
    for current, following in pairwise(order.unbind()):
        index = current if batch == 1 else current + offset
        torch.index_select(flat, 0, index, out=query)
        query.mul_(torch.index_select(scales, 0, index, out=scale).unsqueeze(1))
        if batch == 1:
            torch.mv(flat, query[0], out=distance[0])
        else:
            torch.bmm(query.unsqueeze(1), across, out=distance.unsqueeze(1))
        torch.sub(one, distance.mul_(inverse), out=distance)
        torch.minimum(nearest, distance, out=nearest)
        ranked = nearest if weights is None else torch.mul(nearest, weights, out=distance)
        torch.argmax((ranked >= ranked.amax(1, keepdim=True) - STEP).view(torch.uint8), 1, out=following)
    return order.t().contiguous()


def _relative(weights: Tensor, inverse: Tensor) -> Tensor:
    """The weights [B, N] divided by their row's largest, in float32, so that one tolerance suits all.

    Equal weights become exactly 1. inverse: [B, N], for its shape. Raises TokenselError for another shape.
    """
    if weights.shape != inverse.shape:
        raise TokenselError(f"weights: must be {list(inverse.shape)}, one per token, not {list(weights.shape)}")
    weights = weights.to(inverse.device, torch.float32)
    largest = weights.amax(1, keepdim=True)
    return weights / largest.clamp_min(torch.finfo(torch.float32).tiny)


def _start(
    tokens: Tensor,
    inverse: Tensor,
    start: int | str | Tensor | None,
    generator: torch.Generator | None,
    weights: Tensor | None,
) -> Tensor:
    """The first choice of every row: LongTensor[B, 1]."""
    batch, count, _ = tokens.shape
    if start is None:
        device = generator.device if generator is not None else tokens.device
        drawn = torch.randint(count, (batch, 1), generator=generator, device=device)
        return drawn.to(tokens.device)
    if isinstance(start, Tensor):
        return start.view(batch, 1).to(tokens.device, torch.long)
    if start == "medoid":
        return rank(degrees(tokens, inverse, weights), DEGREE_ROUNDING)[:, :1]
    if start == "peripheral":
        # Two tokens that are each other's nearest neighbour have the same distance, but for rounding.
        closest = _nearest_neighbour_cosine(tokens, inverse)
        return first_of_best(-closest, tolerance=ROUNDING)
    if isinstance(start, int) and not isinstance(start, bool):
        if not 0 <= start < count:
            raise TokenselError(f"start={start}: must be a token index from 0 to {count - 1}")
        return torch.full((batch, 1), start, device=tokens.device)
    raise TokenselError(f"start={start!r}: must be None, an index, 'medoid' or 'peripheral'")


def _nearest_neighbour_cosine(tokens: Tensor, inverse: Tensor) -> Tensor:
    """The largest cosine of each token with another token: [B, N]."""
    blocks = []
    everyone = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
    for index in everyone.split(PERIPHERAL_BLOCK, dim=1):
        cosine = cosine_to(tokens, inverse, unit_rows(tokens, inverse, index))
        blocks.append(cosine.scatter(1, index.unsqueeze(1), -torch.inf).amax(1))
    return torch.cat(blocks, 1)
