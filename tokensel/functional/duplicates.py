"""Removal of near-duplicates in rounds of bipartite matching.

Shapes: B rows of a batch, N visual tokens, R ranked tokens, M kept, D hidden size.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, rank, take
from tokensel.functional.similarity import EXACT, inverse_norms, unit_rows


@torch.no_grad()
def remove_duplicates(tokens: Tensor, order: Tensor, kept: int, step: int = 8) -> Tensor:
    """Removes, round after round, tokens that resemble another remaining token most, until `kept` are left.

    In a round the tokens at even places of the order propose: each has its largest cosine with a token at an odd place,
    and the `step` proposers with the largest ones leave (fewer in the last round). The next order is the other
    proposers by falling cosine, then the tokens at odd places. Swapping two neighbours in that order changes all later
    rounds, so cosines are float64, and only those within 1e-9 tie.

    tokens [B, N, D], order LongTensor[B, R], distinct within a row -> LongTensor[B, min(kept, R)] in the last order.
    O(R^2 D), and O(R^2) for each of (R - M) / step rounds.

    Raises TokenselError for kept < 0 or step < 1. Source: VisPruner (arXiv 2412.01818), whose released code needs an
    even number of tokens in every round.
    """
    check_kept(kept, least=0)
    if step < 1:
        raise TokenselError(f"step={step}: must be at least 1")
    if kept == 0:
        return order[:, :0]
    values = tokens.double()
    unit = unit_rows(values, inverse_norms(values), order)
    cosine = torch.bmm(unit, unit.transpose(1, 2))
    batch, left = order.shape
    remaining = torch.arange(left, device=order.device).repeat(batch, 1)
    while left > kept:
        even, odd = remaining[:, ::2], remaining[:, 1::2]
        leaving = min(step, left - kept, even.shape[1])
        closest = take(cosine, even).gather(2, odd.unsqueeze(1).expand(-1, even.shape[1], -1)).amax(2)
        staying = rank(closest, EXACT)[:, leaving:]
        remaining = torch.cat([even.gather(1, staying), odd], 1)
        left -= leaving
    return order.gather(1, remaining)
