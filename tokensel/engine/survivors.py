"""What remains of the visual tokens after a choice, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokensel.functional import take


@dataclass(frozen=True)
class Survivors:
    """The visual tokens that remain, in the order in which they stand.

    indices: LongTensor[B, M], which visual token each is; -1 = none of them. places: LongTensor[B, M], whose place each
    takes. values: [B, M, D] what they carry, None = their own. sizes: [B, M] what they weigh, None = 1. weights: [B, M]
    float32, how many of the picture's tokens each stands for, for a later stage; None = nobody counts. counts:
    LongTensor[B, P], how many of each of the P pictures; the first sum(counts[b]) entries of row b count, and what
    follows is padding, with index -1; None = all entries count, and each picture has `shares` of them in every row.
    """

    indices: Tensor
    places: Tensor
    values: Tensor | None = None
    sizes: Tensor | None = None
    counts: Tensor | None = None
    weights: Tensor | None = None
    shares: tuple[int, ...] = ()

    @property
    def real(self) -> Tensor:
        """Which entries count: BoolTensor[B, M]."""
        if self.counts is None:
            return torch.ones_like(self.indices, dtype=torch.bool)
        return real_entries(self.counts.sum(1), self.indices.shape[1])

    def ordered(self, order: Tensor) -> "Survivors":
        """Entries order[b] of each row, LongTensor[B, M']."""
        return replace(
            self,
            indices=self.indices.gather(1, order),
            places=self.places.gather(1, order),
            values=None if self.values is None else take(self.values, order),
            sizes=None if self.sizes is None else self.sizes.gather(1, order),
            weights=None if self.weights is None else self.weights.gather(1, order),
        )


def real_entries(counts: Tensor, width: int) -> Tensor:
    """The first counts[b] of `width` entries: BoolTensor[B, width]. counts: LongTensor[B]."""
    return torch.arange(width, device=counts.device) < counts.unsqueeze(1)


def everything(batch: int, counts: Sequence[int], device: torch.device) -> Survivors:
    """The survivors where all stay. counts: the tokens of each picture."""
    indices = torch.arange(sum(counts), device=device).expand(batch, -1)
    return Survivors(indices, indices, shares=tuple(counts))


def in_place(survivors: Survivors, tokens: Tensor) -> Survivors:
    """The survivors of one picture, each in its own place, ascending; tokens: [B, N, D], those that they come from.

    A token that is none of the picture's takes the lowest place that is free. A method may choose a token twice; two
    cannot stand in one place, so the lowest free one fills in, with its own state.
    """
    indices, values, sizes, counts = survivors.indices, survivors.values, survivors.sizes, survivors.counts
    (batch, width), count = indices.shape, tokens.shape[1]
    real = survivors.real
    named = real & (indices >= 0)
    entries = torch.arange(width, device=indices.device).expand(batch, -1)
    # Of a token's entries, the first; `width` where it has none. The last column takes what names no token.
    first = torch.full((batch, count + 1), width, device=indices.device)
    first = first.scatter_reduce(1, torch.where(named, indices, count), entries, "amin")[:, :count]
    free_last = (first == width).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
    behind = torch.where(real, 0, count)
    places = (free_last + behind).sort(dim=1).values % count if count else free_last
    if values is None and sizes is None:
        return Survivors(torch.where(real, places, -1), places, counts=counts)
    distinct = (first < width).sum(1, keepdim=True)
    strangers = (real & (indices < 0)).sum(1, keepdim=True)
    stranger = (~(real & (indices < 0))).to(torch.uint8).sort(dim=1, stable=True).indices
    source = torch.where(entries < distinct, first.gather(1, free_last), -1)
    theirs = (entries >= distinct) & (entries < distinct + strangers)
    source = torch.where(theirs, stranger.gather(1, (entries - distinct).clamp(0, width - 1)), source)
    order = (free_last + behind).argsort(1)
    source = source.gather(1, order)
    is_named = real & ~theirs.gather(1, order)
    if values is not None:
        own = take(tokens, places)
        values = torch.where((source < 0).unsqueeze(-1), own, take(values, source.clamp_min(0)))
    if sizes is not None:
        sizes = torch.where(source < 0, 1.0, sizes.float().gather(1, source.clamp_min(0)))
    return Survivors(torch.where(is_named, places, -1), places, values, sizes, counts)


def beside(pictures: Sequence[Survivors], counts: Sequence[int]) -> Survivors:
    """The survivors of a prompt's pictures, which have `counts` tokens, as those of the prompt."""
    indices, places, first = [], [], 0
    for each, count in zip(pictures, counts, strict=True):
        indices.append(torch.where(each.indices < 0, -1, each.indices + first))
        places.append(each.places + first)
        first += count
    values = [each.values for each in pictures if each.values is not None]
    weights = [each.weights for each in pictures if each.weights is not None]
    sizes = [
        torch.ones_like(each.indices, dtype=torch.float32) if each.sizes is None else each.sizes.float()
        for each in pictures
    ]
    joined = Survivors(
        torch.cat(indices, 1),
        torch.cat(places, 1),
        torch.cat(values, 1) if values else None,
        torch.cat(sizes, 1) if any(each.sizes is not None for each in pictures) else None,
        weights=torch.cat(weights, 1) if weights else None,
        shares=tuple(each.indices.shape[1] for each in pictures),
    )
    if all(each.counts is None for each in pictures):
        return joined
    real = torch.cat([each.real for each in pictures], 1)
    order = (~real).to(torch.uint8).sort(dim=1, stable=True).indices
    return replace(joined.ordered(order), counts=torch.stack([each.real.sum(1) for each in pictures], 1))


def together(groups: Sequence[tuple[Tensor, Survivors]], tokens: Tensor, multiple: int) -> Survivors:
    """The survivors of groups of rows as those of the batch, padded to the largest row and a multiple of `multiple`.

    groups: (LongTensor[b] of rows, their survivors). tokens: [B, N, D], what is there; padding takes free places.
    """
    (batch, count), device = tokens.shape[:2], tokens.device
    counts = torch.zeros(batch, len(groups[0][1].shares), dtype=torch.long, device=device)
    for rows, each in groups:
        counts[rows] = torch.tensor(each.shares, device=device) if each.counts is None else each.counts
    most = int(counts.sum(1).amax())
    width = min(count, -(-most // multiple) * multiple)
    real = real_entries(counts.sum(1), width)
    indices, places = (torch.full((batch, width), -1, device=device) for _ in range(2))
    values = tokens.new_zeros(batch, width, tokens.shape[2]) if any(e.values is not None for _, e in groups) else None
    sizes = torch.ones(batch, width, device=device) if any(e.sizes is not None for _, e in groups) else None
    weights = torch.ones(batch, width, device=device) if any(e.weights is not None for _, e in groups) else None
    for rows, each in groups:
        have = min(width, each.indices.shape[1])
        indices[rows, :have] = each.indices[:, :have]
        places[rows, :have] = each.places[:, :have]
        if values is not None:
            own = take(tokens[rows], each.indices.clamp_min(0)) if each.values is None else each.values
            values[rows, :have] = own[:, :have].to(values.dtype)
        if sizes is not None and each.sizes is not None:
            sizes[rows, :have] = each.sizes[:, :have]
        if weights is not None and each.weights is not None:
            weights[rows, :have] = each.weights[:, :have]
    weights = None if weights is None else weights.masked_fill(~real, 0)
    taken = torch.zeros(batch, count + 1, dtype=torch.uint8, device=device)
    taken = taken.scatter(1, torch.where(real, places, count), 1)[:, :count]
    places = torch.where(real, places, taken.sort(dim=1, descending=True, stable=True).indices[:, :width])
    indices = torch.where(real, indices, -1)
    values = None if values is None else values.masked_fill(~real.unsqueeze(-1), 0)
    sizes = None if sizes is None else sizes.masked_fill(~real, 1)
    return Survivors(indices, places, values, sizes, counts, weights)
