"""Quotas by band: the picture is cut into runs of consecutive tokens, and each run gets a share of the tokens to keep.

Shapes: B rows of a batch, N visual tokens, P bands, W tokens in the longest band, D hidden size, M kept. The first
N mod P bands are one token longer than the others; P is at most N.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, rank, take
from tokensel.functional.similarity import ROUNDING


@dataclass(frozen=True)
class _Bands:
    """index: LongTensor[P, W], the tokens of each band, and real: BoolTensor[P, W], which of them exist."""

    index: Tensor
    real: Tensor

    @property
    def sizes(self) -> Tensor:
        return self.real.sum(1)


def _bands(count: int, bands: int, device: torch.device) -> _Bands:
    if bands < 1:
        raise TokenselError(f"bands={bands}: must be at least 1")
    bands = min(bands, count)
    number = torch.arange(bands, device=device)
    size = count // bands + (number < count % bands)
    within = torch.arange(-(-count // bands), device=device)
    index = (size.cumsum(0) - size).unsqueeze(1) + within
    return _Bands(index.clamp_max(count - 1), within < size.unsqueeze(1))


@torch.no_grad()
def band_scores(tokens: Tensor, attention: Tensor, bands: int, weight: float = 0.09, lone: float = 1000.0) -> Tensor:
    """The score of each band: its mean attention, and how varied the cosines between its tokens are.

    For a token, v_i = the variance of its cosines with the others of its band (the zeroed diagonal is one of the
    values), and b_i = 1000 attention_i. With f = mean |b| / mean |v| over the band, the band's score is the mean of
    b_i + weight * f * v_i. The score of a band of one token is `lone` times its attention.

    tokens [B, N, D], attention [B, N] -> [B, min(bands, N)]. O(N W D).

    Raises TokenselError for bands < 1. Source: HoloV (arXiv 2510.02912); its released code has lone = 1.
    """
    batch, count, hidden = tokens.shape
    cut = _bands(count, bands, tokens.device)
    width, sizes = cut.index.shape[1], cut.sizes
    values = tokens.float()
    unit = values / (torch.linalg.vector_norm(values, dim=-1, keepdim=True) + 1e-6)
    unit = take(unit, cut.index.flatten().expand(batch, -1)).view(-1, width, hidden)
    pairs = cut.real.unsqueeze(1) & cut.real.unsqueeze(2)
    others = pairs & ~torch.eye(width, dtype=torch.bool, device=tokens.device)
    cosine = torch.bmm(unit, unit.transpose(1, 2)).view(batch, -1, width, width) * others
    freedom = (sizes - 1).clamp_min(1).view(-1, 1, 1)
    mean = cosine.sum(3, keepdim=True) / freedom
    variance = ((cosine - mean).square() * pairs).sum(3) / freedom.squeeze(2)
    scaled = 1000 * attention.float()[:, cut.index] * cut.real
    salience, variety = scaled.sum(2) / sizes, variance.sum(2) / sizes
    scores = salience + weight * salience / (variety + 1e-6) * variety
    return torch.where(sizes == 1, scaled[..., 0] * (lone / 1000), scores)


@torch.no_grad()
def band_quotas(scores: Tensor, kept: int) -> Tensor:
    """Shares `kept` among the bands in proportion to their scores [B, P], at least 0 -> LongTensor[B, P].

    Quotas are rounded down, and the bands with the largest scores get one more each until all is given. A quota may
    exceed its band. Raises TokenselError for kept < 0. Source: HoloV (arXiv 2510.02912).
    """
    check_kept(kept, least=0)
    share = scores / (scores.sum(1, keepdim=True) + 1e-6)
    # A share that is a whole number but for rounding is not rounded down to the one below.
    quotas = (share * kept * (1 + ROUNDING)).floor().long()
    place = rank(share, ROUNDING).argsort(1)
    return quotas + (place < kept - quotas.sum(1, keepdim=True))


@torch.no_grad()
def keep_in_bands(attention: Tensor, quotas: Tensor) -> Tensor:
    """In each band the tokens with the largest attention, as many as its quota: attention [B, N] -> LongTensor[B, N].

    quotas: LongTensor[B, P]. Band after band, the kept tokens by falling attention, or all of a band in their order
    where the quota is no smaller than it; every other place is -1, and these come last.
    """
    batch, count = attention.shape
    cut = _bands(count, quotas.shape[1], attention.device)
    bands, width = cut.index.shape
    padded = attention[:, cut.index].masked_fill(~cut.real, -torch.inf)
    place = rank(padded.flatten(0, 1), ROUNDING).argsort(1).view(batch, bands, width)
    quota = quotas.unsqueeze(2)
    inside = torch.arange(width, device=attention.device)
    place = torch.where(quota >= cut.sizes.unsqueeze(1), inside, place)
    kept = (place < quota) & cut.real
    number = torch.arange(bands, device=attention.device).unsqueeze(1)
    key = torch.where(kept, number * width + place, bands * width).flatten(1)
    order = key.argsort(dim=1, stable=True)[:, :count]
    found = cut.index.flatten().expand(batch, -1).gather(1, order)
    return found.masked_fill(~kept.flatten(1).gather(1, order), -1)
