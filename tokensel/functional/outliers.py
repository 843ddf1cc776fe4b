"""LLaVA-PruMerge's choice of visual tokens: outliers of the attention, and tokens at a stride over the picture.

Shapes: B rows of a batch, N visual tokens, M kept. Ties go to the lowest index.
"""

import math

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, rank, take
from tokensel.functional.merging import weighted_merge
from tokensel.functional.similarity import ROUNDING


def outlier_counts(scores: Tensor) -> Tensor:
    """How many scores are outliers: above the third quartile by more than 1.5 interquartile ranges.

    scores [B, N] -> LongTensor[B]. Quartiles are interpolated linearly. O(N log N).

    Source: Shang et al. 2024 (LLaVA-PruMerge, arXiv 2403.15388).
    """
    ordered = scores.float().sort(1).values
    first, third = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    return (scores > third + 1.5 * (third - first)).sum(1)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """ordered [B, N], ascending -> [B, 1]. As torch.quantile, which waits for the device in some versions of torch."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    return torch.lerp(ordered[:, below : below + 1], ordered[:, math.ceil(place)].unsqueeze(1), place - below)


def kept_outliers(outliers: Tensor, count: int) -> Tensor:
    """How many of the outliers PruMerge's release keeps, of `count` tokens: LongTensor[...] -> LongTensor[...].

    It computes int(N * (outliers / N)) in floating point, which is one less for some numbers: 28 of 29 for N = 400.
    """
    kept = [int(count * (each / count)) for each in range(count + 1)]
    return torch.tensor(kept, device=outliers.device)[outliers]


def outliers_at_stride(
    scores: Tensor, kept: int, times: int = 3, outliers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """PruMerge+'s choice: the tokens with the highest scores, and about `times` as many at a stride over the picture.

    For n outliers, of which `kept_outliers` are kept, the stride is int(int(N / n) / times), counted from token 0 and
    without the last token. n is the largest number whose kept outliers and strided tokens are at most `kept`, and the
    next highest scores make up the rest.
    outliers: LongTensor[B], the n of each row, whose result may be fewer tokens than `kept`; where it would be more,
    that row's n is chosen as above.

    scores [B, N] -> indices LongTensor[B, min(kept, N)]: outliers by falling score, then the other strided tokens,
    ascending; counts LongTensor[B], how many of a row's indices belong to its choice. O(N log N + N M).

    Raises TokenselError for kept < 1 or times < 1. Source: Shang et al. 2024 (LLaVA-PruMerge, arXiv 2403.15388).
    """
    check_kept(kept)
    if times < 1:
        raise TokenselError(f"times={times}: must be at least 1")
    count = scores.shape[1]
    kept, order = min(kept, count), rank(scores, ROUNDING)
    everyone = torch.arange(count, device=scores.device)
    strided, totals = _strided(order, kept, times)
    numbers = torch.arange(1 + kept, device=scores.device)
    number = ((totals <= kept) * numbers).amax(1)
    if outliers is not None:
        own = (outliers <= kept) & (totals.gather(1, outliers.clamp(1, kept).unsqueeze(1)).squeeze(1) <= kept)
        number = torch.where(own, outliers.clamp(1, kept), number)
    at_stride = strided[number, torch.arange(len(scores), device=scores.device)]  # by rank, as `strided`
    leading = (~at_stride).cumsum(1) <= kept - at_stride.sum(1, keepdim=True)
    if outliers is not None:
        leading = torch.where(own.unsqueeze(1), everyone < kept_outliers(number, count).unsqueeze(1), leading)
    key = torch.where(leading, everyone, torch.where(at_stride, count, 2 * count) + order)
    return order.gather(1, key.argsort(1)[:, :kept]), (leading | at_stride).sum(1)


def _strided(order: Tensor, kept: int, times: int) -> tuple[Tensor, Tensor]:
    """For 0 .. kept outliers: which tokens are at the stride, BoolTensor[1 + kept, B, N] in the order of `order`, and
    how many tokens the outliers and those are together, LongTensor[B, 1 + kept]. 0 outliers have no stride."""
    count, device = order.shape[1], order.device
    # In floating point like the release, where 1 / (n / N) may be just below an integer.
    strides = [max(1, int(1 / (number / count)) // times) for number in range(1, 1 + kept)]
    everyone = torch.arange(count, device=device)
    table = everyone.remainder(torch.tensor([1, *strides], device=device).unsqueeze(1)) == 0
    table = table & (everyone < count - 1)
    table[0] = False
    strided = table[:, order]
    numbers = torch.arange(1 + kept, device=device)
    leading = kept_outliers(numbers, count)
    met = torch.nn.functional.pad(strided.cumsum(2, dtype=torch.int32), (1, 0))[numbers, :, leading]
    return strided, (leading + table.sum(1)).unsqueeze(0) - met.T


def merge_outliers(
    tokens: Tensor, keys: Tensor, weights: Tensor, positions: Tensor, neighbours: int = 32, counts: Tensor | None = None
) -> Tensor:
    """LLaVA-PruMerge's merging: `weighted_merge` of the chosen tokens, and the weighted sum of all others behind them.

    tokens [B, N, D], keys [B, N, Dk], weights [B, N], positions LongTensor[B, M], counts LongTensor[B]: the first
    counts[b] positions of row b are the chosen ones, None = all M -> [B, M + 1, D] in the tokens' dtype, the sum at
    counts[b]. Of equally similar neighbours, chosen ones come first. Where a position repeats, the token is chosen
    twice and a neighbour of itself; as many of the first tokens that were not chosen then count nowhere, as in the
    release. O(N M Dk).

    Raises TokenselError for neighbours < 1. Source: Shang et al. 2024 (LLaVA-PruMerge, arXiv 2403.15388).
    """
    count, kept = tokens.shape[1], positions.shape[1]
    chosen = torch.zeros_like(weights, dtype=torch.uint8).scatter(1, positions, 1)
    others = chosen.sort(dim=1, descending=True, stable=True).indices[:, kept:]
    order = torch.cat([positions, others], 1)
    values, shares = take(tokens.float(), order), weights.float().gather(1, order)
    everyone = torch.arange(count, device=tokens.device).expand_as(order)
    merged = weighted_merge(values, take(keys, order), shares, everyone[:, :kept], neighbours)
    if counts is None:
        counts = torch.full_like(order[:, 0], kept)
    rest = torch.bmm((shares * (everyone >= counts.unsqueeze(1))).unsqueeze(1), values)
    return insert_last(merged, rest, counts).to(tokens.dtype)


def insert_last(rows: Tensor, last: Tensor, counts: Tensor) -> Tensor:
    """Rows with one more entry behind the first counts[b]: rows [B, M, ...], last [B, 1, ...], counts LongTensor[B]
    -> [B, M + 1, ...]. Entries behind it are moved or lost."""
    place = torch.arange(rows.shape[1] + 1, device=rows.device) == counts.unsqueeze(1)
    return torch.where(place.view(*place.shape, *[1] * (rows.ndim - 2)), last, torch.cat([rows, last], 1))
