"""Merging each dropped token into the most similar of the kept ones."""

import torch
from torch import Tensor

from tokensel.functional.indexing import first_of_best, take
from tokensel.functional.merging import Merge
from tokensel.functional.similarity import ROUNDING, inverse_norms, query_cosines, unit_rows


@torch.no_grad()
def merge_nearest(tokens: Tensor, targets: Tensor, rest: Tensor, width: int | None = None) -> Tensor:
    """The plain mean of each target and of those of `rest` whose most similar target (cosine) it is.

    tokens [B, N, D], targets LongTensor[B, M] and rest LongTensor[B, R] of distinct indices -> [B, M, D] in the tokens'
    dtype. Similarities are those before any merging. Of targets whose cosines differ by less than 1e-6, the first
    counts as the most similar. width: how many of the D entries the cosine is taken of, the first ones; None = all.
    O(R M D), holding the R x M similarities.

    Source: the merging of VScan (arXiv 2505.22654) and ApET (arXiv 2602.19870).
    """
    batch, count, _ = tokens.shape
    kept = targets.shape[1]
    if rest.shape[1] == 0 or kept == 0:
        return take(tokens, targets)
    values = tokens[..., :width].float()
    inverse = inverse_norms(values)
    centers = unit_rows(values, inverse, targets)
    cosines = query_cosines(take(values, rest), inverse.gather(1, rest), centers)
    nearest = first_of_best(cosines, dim=1, tolerance=ROUNDING).squeeze(1)
    everyone = torch.arange(kept, device=tokens.device).expand(batch, -1)
    assign = torch.zeros(batch, count, dtype=torch.long, device=tokens.device)
    assign = assign.scatter(1, targets, everyone).scatter(1, rest, nearest)
    taking_part = torch.zeros(batch, count, device=tokens.device).scatter(1, torch.cat([targets, rest], 1), 1)
    return Merge(targets, assign)(tokens, taking_part.unsqueeze(2))[0]
