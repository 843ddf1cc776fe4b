"""How much of a picture the first tokens of an order of choice cover, and how many of them are enough.

Shapes: B rows of a batch, N visual tokens, K chosen ones in the order of choice, D hidden size. A coverage is from 0 to
1, float32 [B, K], after each of the K choices, and never falls.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tokensel.functional.indexing import TIE, take
from tokensel.functional.similarity import inverse_norms, query_cosines, unit_rows

# A coverage this close below the one that is asked for reaches it: processors round differently.
TOLERANCE = 1e-5
# Choices compared with all tokens at a time; bounds memory.
BLOCK = 64


@torch.no_grad()
def farthest_coverage(tokens: Tensor, order: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - the largest distance, 1 - cosine, of any token to its nearest chosen one, at least 0: [B, K].

    tokens: [B, N, D]. order: LongTensor[B, K]. weights: [B, N], above 0, of which the row's largest counts as 1: each
    token's distance is multiplied by its own; None = 1. O(N K D), in blocks of choices.
    """
    blocks = []
    weights = None if weights is None else weights.float() / weights.float().amax(1, keepdim=True)
    for nearest in _nearest_cosines(tokens, order):
        if weights is not None:
            nearest = 1 - weights.unsqueeze(1) * (1 - nearest)
        blocks.append(nearest.amin(2))
    return torch.cat(blocks, 1).clamp(0, 1)


@torch.no_grad()
def mean_coverage(tokens: Tensor, order: Tensor) -> Tensor:
    """The cosine of a token with its nearest chosen one, at least 0, averaged over all tokens but zero vectors: [B, K].

    tokens: [B, N, D]. order: LongTensor[B, K]. O(N K D), in blocks of choices.
    """
    count = tokens.any(2).sum(1, keepdim=True).clamp_min(1)
    sums = [nearest.clamp_min(0).sum(2) for nearest in _nearest_cosines(tokens, order)]
    return (torch.cat(sums, 1) / count).clamp(0, 1)


def _nearest_cosines(tokens: Tensor, order: Tensor) -> Iterator[Tensor]:
    """For blocks of k choices, each token's largest cosine with what is chosen by then: [B, k, N] each."""
    tokens = tokens.float()
    inverse = inverse_norms(tokens)
    nearest = None
    for index in order.split(BLOCK, 1):
        cosines = query_cosines(tokens, inverse, unit_rows(tokens, inverse, index))
        if nearest is not None:
            cosines = torch.cat([nearest, cosines], 1)
        along = cosines.cummax(1).values
        yield along if nearest is None else along[:, 1:]
        nearest = along[:, -1:]


@torch.no_grad()
def affinity_coverage(affinity: Tensor, order: Tensor) -> Tensor:
    """What `greedy_coverage` maximises, as a share of what all candidates reach together: [B, K].

    affinity: [B, N, R], how well each candidate covers each item. order: LongTensor[B, K]. O(K R).
    """
    reached = take(affinity.float(), order).cummax(1).values.clamp_min(0).sum(2)
    most = affinity.float().amax(1).clamp_min(0).sum(1, keepdim=True)
    return torch.where(most > 0, reached / most, 1.0).clamp(0, 1)


@torch.no_grad()
def mass_coverage(masses: Tensor, scores: Tensor) -> Tensor:
    """The share of all mass that tokens hold, by falling score: masses [B, N], at least 0, scores [B, N] -> [B, N].

    Where a row has no mass, all tokens count alike.
    """
    masses = masses.float()
    masses = torch.where(masses.sum(1, keepdim=True) > 0, masses, 1.0)
    ordered = masses.gather(1, scores.sort(dim=1, descending=True, stable=True).indices)
    summed = ordered.cumsum(1)
    return summed / summed[:, -1:]


@torch.no_grad()
def score_masses(scores: Tensor) -> Tensor:
    """Scores as masses, float32 [B, N]: themselves where no score of the row is negative, else what they exceed the
    row's lowest by. -inf counts as the lowest, and inf as the highest, of the finite ones."""
    scores = scores.float()
    finite = scores.isfinite()
    low = scores.masked_fill(~finite, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0)
    high = scores.masked_fill(~finite, -torch.inf).amax(1, keepdim=True).nan_to_num(neginf=0)
    return scores.clamp(low, high) - low.clamp_max(0)


def covering_counts(covered: Tensor, coverage: float, least: int, most: int) -> Tensor:
    """The smallest number of choices whose coverage is at least `coverage`, from `least` to `most`: LongTensor[B].

    covered: [B, K]. Where no choice reaches it, K + 1.
    """
    return ((covered < coverage - TOLERANCE).sum(1) + 1).clamp(least, most)


def covers(covered: Tensor, coverage: float) -> bool:
    """Whether the last choice of every row reaches a coverage. Waits for the device."""
    return bool((covered[:, -1] >= coverage - TOLERANCE).all())


def keep_best_each(scores: Tensor, counts: Tensor, width: int) -> Tensor:
    """The indices of the counts[b] largest scores of each row, ascending, and 0 behind them: LongTensor[B, width].

    scores: [B, N]. counts: LongTensor[B], from 1 to width. Each row is as `keep_best` has it.
    """
    values, order = scores.sort(dim=1, descending=True, stable=True)
    if scores.is_floating_point():
        least = values.gather(1, (counts - 1).unsqueeze(1))
        edge = TIE * least.abs().nan_to_num(posinf=0)
        place = (scores > least + edge).to(torch.uint8) + (scores >= least - edge).to(torch.uint8)
        order = place.sort(dim=1, descending=True, stable=True).indices
    return ascending(order[:, :width], counts, scores.shape[1])


def ascending(order: Tensor, counts: Tensor, count: int) -> Tensor:
    """The first counts[b] indices of each row, ascending, and 0 behind them: order LongTensor[B, K] of `count` tokens
    -> LongTensor[B, K]."""
    real = torch.arange(order.shape[1], device=order.device) < counts.unsqueeze(1)
    found = torch.where(real, order, count).sort(dim=1).values
    return found.masked_fill(found == count, 0)
