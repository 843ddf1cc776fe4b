"""Greedy maximum coverage: the candidates that together cover a set of items best (facility location).

Shapes: B rows of a batch, N candidates, R items to cover, M kept.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, take
from tokensel.functional.similarity import ROUNDING

COMBINED = ("multi", "add")


@torch.no_grad()
def greedy_coverage(
    affinity: Tensor,
    kept: int,
    weight: Tensor | None = None,
    combined: str = "multi",
    noise: float = 0.0,
    allowed: Tensor | None = None,
) -> Tensor:
    """Choices that maximise sum_r max(0, max over chosen j of affinity_jr), one at a time, each the best at its turn.

    affinity: [B, N, R], how well each candidate covers each item -> LongTensor[B, min(kept, N)] in the order of choice.
    A candidate's gain is sum_r max(0, affinity_jr - cover_r), where cover_r is the largest affinity of the chosen ones,
    0 at first. O(N M R); memory O(N R).

    weight: [B, N]; the choice maximises gain * weight for combined="multi", gain + weight for "add"; None = the gain.
    noise: an item's contribution to a gain counts as 0 up to this size. Scores within 1e-6 of the best, relative to it,
    tie with it; ties go to the lowest index. allowed: BoolTensor[B, N], the candidates to choose; others follow only
    when none of these is left. None = all.

    Raises TokenselError for kept < 1 or an unknown combined. Source: Nemhauser, Wolsey, Fisher 1978; SCOPE
    (arXiv 2510.24214); MMTok (arXiv 2508.18264).
    """
    check_kept(kept)
    if combined not in COMBINED:
        raise TokenselError(f"combined={combined!r}: must be one of {', '.join(COMBINED)}")
    affinity = affinity.float()
    batch, count, items = affinity.shape
    cover = affinity.new_zeros(batch, 1, items)
    chosen = torch.zeros(batch, count, dtype=torch.bool, device=affinity.device)
    gains = torch.empty_like(affinity)
    order: list[Tensor] = []
    for _ in range(min(kept, count)):
        torch.sub(affinity, cover, out=gains)
        score = torch.threshold_(gains, noise, 0).sum(2)
        if weight is not None:
            score = score * weight if combined == "multi" else score + weight
        closed = chosen
        if allowed is not None:
            left = allowed & ~chosen
            closed = torch.where(left.any(1, keepdim=True), ~left, chosen)
        score.masked_fill_(closed, -torch.inf)
        best = score.amax(1, keepdim=True)
        current = (score >= best - ROUNDING * best.abs()).to(torch.uint8).argmax(1, keepdim=True)
        chosen.scatter_(1, current, True)
        cover = torch.maximum(cover, take(affinity, current))
        order.append(current)
    return torch.cat(order, 1)
