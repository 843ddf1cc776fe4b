"""The medoid rule known as "tome": tokens of high degree in the cosine graph."""

import torch
from torch import Tensor

from tokensel.functional import centers_cpu
from tokensel.functional.indexing import check_kept, first_of_best, rank
from tokensel.functional.similarity import (
    DEGREE_ROUNDING,
    EPSILON,
    ROUNDING,
    degrees,
    inverse_norms,
    is_on_cpu,
    query_cosines,
    unit_rows,
)


@torch.no_grad()
def tome_centers(tokens: Tensor, kept: int, iterations: int = 3, weights: Tensor | None = None) -> Tensor:
    """The `kept` tokens of highest degree, each then moved to the member of its cluster with the highest degree.

    degree_i = sum_j cos(i, j). Start from the M highest degrees; then, `iterations` times, assign every token to its
    most similar centre and move each centre to the member of its cluster with the highest degree; an empty cluster
    keeps its centre. Ties go to the lowest index.

    tokens: [B, N, D] -> LongTensor[B, min(kept, N)], by falling degree of the initial centre; kept >= N returns
    arange(N). O(N M D) per iteration.

    Without parallel tokens the iterations change nothing: a token of higher degree than a centre is itself a centre,
    so the result is the top-k by degree. This is the simplified form, not the original ToMe.

    weights: [B, N] from 0, how many tokens each token stands for: degree_i = sum_j weights_j cos(i, j); None = 1 each.

    Raises TokenselError for kept < 1.
    """
    check_kept(kept)
    batch, count, _ = tokens.shape
    if kept >= count:
        return torch.arange(count, device=tokens.device).repeat(batch, 1)
    tokens = tokens.float()
    if is_on_cpu(tokens) and weights is None:
        inverse, degree, centers, settled = centers_cpu.highest_degrees(tokens, kept, EPSILON)
        if settled:
            return centers
    else:
        inverse = inverse_norms(tokens)
        degree = degrees(tokens, inverse, weights)
        centers = rank(degree, DEGREE_ROUNDING)[:, :kept]
    each = torch.arange(kept, device=tokens.device).unsqueeze(1)
    place = rank(degree, DEGREE_ROUNDING).argsort(dim=1)
    for _ in range(iterations):
        cosine = query_cosines(tokens, inverse, unit_rows(tokens, inverse, centers))
        member = first_of_best(cosine, tolerance=ROUNDING) == each
        # The rank, not the degree: in it, degrees that differ by rounding only are ordered by index.
        best = torch.where(member, place.unsqueeze(1), tokens.shape[1]).argmin(2)
        centers = torch.where(member.any(2), best, centers)
    return centers
