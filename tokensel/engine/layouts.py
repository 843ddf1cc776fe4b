"""The sequence after a stage, and what has one entry per token of it: masks and position ids."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tokensel.functional import take


@dataclass(frozen=True)
class Reduction:
    """What one stage did to a sequence: enough to do it again to a longer one, as decoding goes on.

    length: T, the prompt's length as the stage saw it.
    slots: LongTensor[B, M], where in that sequence the survivors stand. values: [B, M, D] what they carry, or None.
    keep: LongTensor[B, T'], what remains of the sequence: padding first, then all else, ascending; None where the
    sequence keeps its length.
    counts: LongTensor[B], how many survivors each row has, in its first slots; the other slots are padding. None = all.
    erased: BoolTensor[B, T], the tokens set to zero before the survivors are written (zero_fill).
    visible: BoolTensor[B, T], the tokens that may still be attended to (mask, and where there is padding).
    renumbers: positions close up over what was removed. bias: [B, T], added to the attention logits of these keys.
    deepstack: [B, M, K, D], what the first K layers add to the survivors; None = nothing more.
    """

    length: int
    slots: Tensor
    values: Tensor | None = None
    keep: Tensor | None = None
    counts: Tensor | None = None
    erased: Tensor | None = None
    visible: Tensor | None = None
    renumbers: bool = False
    bias: Tensor | None = None
    deepstack: Tensor | None = None

    @property
    def removed(self) -> int:
        """How many positions the sequence lost."""
        return 0 if self.keep is None else self.length - self.keep.shape[1]

    @property
    def left(self) -> Tensor:
        """How many visual tokens each row has left: LongTensor[B]."""
        return self.slots.new_full((len(self.slots),), self.slots.shape[1]) if self.counts is None else self.counts

    @property
    def padding(self) -> Tensor | int:
        """How many positions of padding each row of the reduced sequence begins with: LongTensor[B, 1], or 0."""
        if self.keep is None or self.counts is None:
            return 0
        return self.slots.shape[1] - self.counts.unsqueeze(1)

    @property
    def closed_up(self) -> Tensor | int:
        """By how much positions behind the prompt fall: LongTensor[B, 1], or one number for all rows."""
        return self.removed + self.padding if self.renumbers else 0

    def rows(self, order: Tensor) -> "Reduction":
        """The same of rows `order`, LongTensor[B']."""
        changed: dict[str, Any] = {
            each.name: value[order.to(value.device)]
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), Tensor)
        }
        return replace(self, **changed)

    def _kept_columns(self, total: int) -> Tensor:
        """keep, and everything that came after the prompt: LongTensor[B, total - removed]."""
        assert self.keep is not None
        later = torch.arange(self.length, total, device=self.keep.device).expand(self.keep.shape[0], -1)
        return torch.cat([self.keep, later], 1) if total > self.length else self.keep

    def along(self, values: Tensor) -> Tensor:
        """Values laid out along the sequence, [B or 1, T + later, ...] -> [B, T' + later, ...]."""
        if self.keep is None:
            return values
        columns = self._kept_columns(values.shape[1]).to(values.device)
        return take(values.expand(columns.shape[0], *values.shape[1:]), columns)

    def position_ids(self, position_ids: Tensor, later: bool = False) -> Tensor:
        """Position ids along the sequence [B or 1, T + later] -> the reduced ones; later: of new tokens only.

        With several axes, [axes, B or 1, T + later], each for itself.
        """
        if position_ids.ndim == 3:
            return torch.stack([self.position_ids(axis, later) for axis in position_ids])
        if later:
            return position_ids - _to(self.closed_up, position_ids)
        if not self.renumbers:
            return self.along(position_ids)
        columns = self._kept_columns(position_ids.shape[1]).to(position_ids.device)
        # What stands at rank r of the kept ones, padding not counted, was at columns[r]: so many were removed before.
        rank = torch.arange(columns.shape[1], device=columns.device) - _to(self.padding, columns)
        closed = self.along(position_ids) - columns + rank
        return closed if self.counts is None else closed.masked_fill(rank < 0, 0)

    def labels(self, labels: Tensor) -> Tensor:
        """Labels along the sequence [B, T] -> those of what remains; padding predicts nothing."""
        labels = self.along(labels)
        if self.counts is None or self.keep is None:
            return labels
        columns = torch.arange(labels.shape[1], device=labels.device)
        return labels.masked_fill(columns <= _to(self.padding, labels), -100)

    def hidden(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, T + later, D] that begin with the prompt -> the reduced ones."""
        slots = self.slots
        if self.erased is not None:
            later = self.erased.new_zeros(len(self.erased), hidden.shape[1] - self.length)
            hidden = hidden.masked_fill(torch.cat([self.erased, later], 1).unsqueeze(-1), 0)
        if self.keep is not None:
            hidden = take(hidden, self._kept_columns(hidden.shape[1]))
            slots = self.new_slots
        if self.values is not None:
            values = self.values.to(hidden.dtype)
            if self.counts is not None:  # nothing is written to padding
                real = torch.arange(slots.shape[1], device=slots.device) < self.counts.unsqueeze(1)
                values = torch.where(real.unsqueeze(-1), values, take(hidden, slots))
            hidden = hidden.scatter(1, slots.unsqueeze(-1).expand(-1, -1, hidden.shape[2]), values)
        return hidden

    @property
    def new_slots(self) -> Tensor:
        """Where the survivors stand in the sequence that remains: LongTensor[B, M]."""
        if self.keep is None:
            return self.slots
        columns = torch.arange(self.keep.shape[1], device=self.keep.device).expand_as(self.keep)
        return self.slots.new_zeros(len(self.slots), self.length).scatter(1, self.keep, columns).gather(1, self.slots)

    def key_mask(self, mask: Tensor | None, total: int) -> Tensor | None:
        """A mask over keys [B, total], True or 1 = may be attended to; None = all. Afterwards likewise."""
        if self.visible is not None:
            later = self.visible.new_ones(self.visible.shape[0], total - self.length)
            visible = torch.cat([self.visible, later], 1)
            mask = visible if mask is None else mask.bool() & visible.to(mask.device)
        return None if mask is None else self.along(mask)

    def key_bias(self, bias: Tensor | None, total: int) -> Tensor | None:
        """What is added to the attention logits of keys [B, total], None = nothing. Afterwards likewise."""
        if self.bias is not None:
            more = torch.nn.functional.pad(self.bias, (0, total - self.length))
            bias = more if bias is None else bias + more
        return None if bias is None else self.along(bias)


def _to(value: Tensor | int, other: Tensor) -> Tensor | int:
    """The value on the device of the other tensor."""
    return value.to(other.device) if isinstance(value, Tensor) else value


def explicit_mask(
    key_mask: Tensor | None, bias: Tensor | None, queries: Tensor, keys: int, dtype: torch.dtype
) -> Tensor:
    """The mask that attention takes where the stock forward would not make the right one: [B or 1, 1, Q, keys].

    key_mask: BoolTensor[B, keys], None = all. bias: [B, keys], None = nothing. queries: LongTensor[Q], each query's
    index among the keys; it sees those up to its own. dtype: bool, or a float type for an additive mask.
    """
    allowed = (torch.arange(keys, device=queries.device) <= queries[:, None])[None, None]
    if key_mask is not None:
        allowed = allowed & key_mask.bool()[:, None, None, :]
    if dtype == torch.bool:
        return allowed
    added = torch.zeros((), dtype=dtype, device=queries.device) if bias is None else bias.to(dtype)[:, None, None, :]
    return torch.where(allowed, added, torch.finfo(dtype).min)
