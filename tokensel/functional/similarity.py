"""Cosine similarity of visual tokens without normalised copies of them.

Shapes: B rows of a batch, N visual tokens, K queries, D hidden size. The cosine of a zero vector with anything,
itself included, is 0.
"""

import torch
from torch import Tensor

from tokensel.functional.indexing import take

EPSILON = 1e-12
# Cosines that differ by less than this may be equal but for rounding.
ROUNDING = 1e-6
# One rounding step of a cosine near 1, for searches among tokens that are all alike, as those of a plain background:
# their distances differ by little more than rounding.
STEP = 1e-7
# Degrees, sums of many cosines, that differ by less than this, relative to them, may be equal but for rounding.
DEGREE_ROUNDING = 5e-7
# Cosines in float64 of equal tokens differ by less than this.
EXACT = 1e-9


def inverse_norms(tokens: Tensor) -> Tensor:
    """1 / max(norm, 1e-12) of every token: [..., D] -> [...]."""
    return torch.linalg.vector_norm(tokens, dim=-1).clamp_min(EPSILON).reciprocal()


def unit_rows(tokens: Tensor, inverse: Tensor, index: Tensor) -> Tensor:
    """The tokens [B, N, D] at index [B, K], scaled to unit length by their inverse norms [B, N] -> [B, K, D]."""
    return take(tokens, index) * inverse.gather(1, index).unsqueeze(-1)


def cosine_to(tokens: Tensor, inverse: Tensor, queries: Tensor) -> Tensor:
    """Cosines of tokens [B, N, D], whose inverse norms are [B, N], with unit queries [B, K, D] -> [B, N, K]."""
    return query_cosines(tokens, inverse, queries).transpose(1, 2)


def query_cosines(tokens: Tensor, inverse: Tensor, queries: Tensor) -> Tensor:
    """`cosine_to` with the queries first: [B, K, N], the faster order where K is smaller than N."""
    if queries.shape[:2] == (1, 1):  # a matrix-vector product has less overhead than a batched product
        return (torch.mv(tokens[0], queries[0, 0]) * inverse[0]).view(1, 1, -1)
    return torch.bmm(queries, tokens.transpose(1, 2)).mul_(inverse.unsqueeze(1))


def degrees(tokens: Tensor, inverse: Tensor, weights: Tensor | None = None) -> Tensor:
    """degree_i = sum over j of weight_j cos(i, j), i itself included: tokens [B, N, D], inverse norms [B, N] -> [B, N].

    weights: [B, N]; None = 1 each. Computed as x_i . sum_j weight_j x_j for unit vectors x, so in O(N D).
    """
    shares = inverse if weights is None else inverse * weights
    return cosine_to(tokens, inverse, torch.bmm(shares.unsqueeze(1), tokens)).squeeze(-1)


def is_on_cpu(tokens: Tensor) -> bool:
    """Whether reading a value costs no synchronisation: a plain tensor (not a subclass) on a CPU."""
    return tokens.device.type == "cpu" and type(tokens) is Tensor
