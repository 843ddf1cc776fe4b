"""Indices from scores, and tokens at indices. Every ranking of the library is one of these functions."""

import torch
from torch import Tensor

from tokensel.errors import TokenselError

# Scores within this distance of the best one tie with it, because processors round differently.
TIE = 1e-5


def rank(scores: Tensor) -> Tensor:
    """All indices, sorted by falling score: scores [B, N] -> LongTensor[B, N]. Ties go to the lowest index."""
    return scores.sort(dim=1, descending=True, stable=True).indices


def keep_best(scores: Tensor, kept: int) -> Tensor:
    """The indices of the `kept` largest scores, ascending: scores [B, N] -> LongTensor[B, min(kept, N)].

    Ties go to the lowest index.
    """
    return rank(scores)[:, :kept].sort(dim=1).values


def first_of_best(scores: Tensor) -> Tensor:
    """The lowest index among the largest scores: scores [B, K] -> LongTensor[B, 1].

    Scores within 1e-5 of the largest count as equal to it.
    """
    return (scores >= scores.amax(1, keepdim=True) - TIE).to(torch.uint8).argmax(1, keepdim=True)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens at the indices: tokens [B, N, ...], indices [B, M] -> [B, M, ...].

    Copies whole vectors, which is faster than `gather`.
    """
    batch, count = tokens.shape[:2]
    if batch == 1:
        return tokens.index_select(1, indices[0])
    flat = indices + torch.arange(0, batch * count, count, device=tokens.device).unsqueeze(1)
    return tokens.flatten(0, 1).index_select(0, flat.flatten()).view(*indices.shape, *tokens.shape[2:])


def check_kept(kept: int, least: int = 1) -> None:
    """Raises TokenselError for kept < least."""
    if kept < least:
        raise TokenselError(f"kept={kept}: must be at least {least}")
