"""Indices from scores, and tokens at indices. Every ranking of the library is one of these functions."""

import torch
from torch import Tensor

from tokensel.errors import TokenselError

# Scores this close tie, because processors round differently: relative to the score for rankings.
TIE = 1e-5


def rank(scores: Tensor, tolerance: float = TIE) -> Tensor:
    """All indices, sorted by falling score: scores [B, N] -> LongTensor[B, N].

    Ties go to the lowest index. Each score that lies within `tolerance` of its predecessor, relative to it, ties with
    it. The default suits attention; cosines are more exact and closer to each other: use ROUNDING for them.
    """
    values, order = scores.sort(dim=1, descending=True, stable=True)
    if not values.is_floating_point() or values.shape[1] < 2:
        return order
    # Infinite scores are equal or not.
    apart = values[:, :-1] - values[:, 1:] > tolerance * values[:, :-1].abs().nan_to_num(posinf=0)
    group = torch.nn.functional.pad(apart.long().cumsum(1), (1, 0))
    return torch.empty_like(group).scatter_(1, order, group).sort(dim=1, stable=True).indices


def keep_best(scores: Tensor, kept: int) -> Tensor:
    """The indices of the `kept` largest scores, ascending: scores [B, N] -> LongTensor[B, min(kept, N)].

    Ties go to the lowest index. All scores within 1e-5 of the smallest kept one, relative to it, tie with it.
    """
    count = scores.shape[1]
    if not 0 < kept < count or not scores.is_floating_point():
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :kept].sort(dim=1).values
    least = scores.topk(kept, dim=1).values[:, -1:]
    width = TIE * least.abs().nan_to_num(posinf=0)
    place = (scores > least + width).to(torch.uint8) + (scores >= least - width).to(torch.uint8)
    return place.sort(dim=1, descending=True, stable=True).indices[:, :kept].sort(dim=1).values


def first_of_best(scores: Tensor, dim: int = 1, tolerance: float = TIE) -> Tensor:
    """The lowest index among the largest scores along `dim`, which stays with length 1.

    Scores within `tolerance` of the largest count as equal to it.
    """
    return (scores >= scores.amax(dim, keepdim=True) - tolerance).view(torch.uint8).argmax(dim, keepdim=True)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens at the indices: tokens [B, N, ...], indices [B, M] -> [B, M, ...].

    Copies whole vectors, which is faster than `gather`.
    """
    batch, count = tokens.shape[:2]
    if batch == 1:
        return tokens.index_select(1, indices[0])
    flat = indices + count * torch.arange(batch, device=tokens.device).unsqueeze(1)
    return tokens.flatten(0, 1).index_select(0, flat.flatten()).view(*indices.shape, *tokens.shape[2:])


def check_kept(kept: int, least: int = 1) -> None:
    """Raises TokenselError for kept < least."""
    if kept < least:
        raise TokenselError(f"kept={kept}: must be at least {least}")
