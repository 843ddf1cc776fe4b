"""How a sequence looks after a stage, and how anything else laid out along it (masks, positions) follows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokensel.errors import TokenselError
from tokensel.functional import take


@dataclass(frozen=True)
class Reduction:
    """What one stage did to a sequence: enough to do it again to a longer one, when decoding goes on.

    length: T, how long the prompt was that the stage saw.
    slots: LongTensor[B, M], where in that sequence the survivors stand. values: [B, M, D] what they carry, or None.
    keep: LongTensor[B, T'], what remains of the sequence, ascending; None where it keeps its length.
    erased: LongTensor[B, N], the places set to zero before the survivors are written (zero_fill).
    visible: BoolTensor[B, T], the places that may still be attended to (mask).
    renumbers: positions close up over what was removed. bias: [B, T], added to the attention logits of these keys.
    """

    length: int
    slots: Tensor
    values: Tensor | None = None
    keep: Tensor | None = None
    erased: Tensor | None = None
    visible: Tensor | None = None
    renumbers: bool = False
    bias: Tensor | None = None

    @property
    def removed(self) -> int:
        """How many positions the sequence lost."""
        return 0 if self.keep is None else self.length - self.keep.shape[1]

    def _kept_columns(self, total: int) -> Tensor:
        """keep, and everything that came after the prompt: LongTensor[B, total - removed]."""
        assert self.keep is not None
        later = torch.arange(self.length, total, device=self.keep.device).expand(self.keep.shape[0], -1)
        return torch.cat([self.keep, later], 1) if total > self.length else self.keep

    def along(self, values: Tensor) -> Tensor:
        """Values laid out along the sequence, [B or 1, T + later, ...] -> [B, T' + later, ...]."""
        if self.keep is None:
            return values
        columns = self._kept_columns(values.shape[1])
        return take(values.expand(columns.shape[0], *values.shape[1:]), columns)

    def position_ids(self, position_ids: Tensor, later: bool = False) -> Tensor:
        """Position ids along the sequence [B or 1, T + later] -> the reduced ones; later: of new tokens only.

        With several axes, [axes, B or 1, T + later], each for itself.
        """
        if position_ids.ndim == 3:
            return torch.stack([self.position_ids(axis, later) for axis in position_ids])
        if not self.renumbers:
            return position_ids if later else self.along(position_ids)
        if later:
            return position_ids - self.removed
        columns = self._kept_columns(position_ids.shape[1])
        # What stands at rank r of the kept ones was at columns[r], so that many were removed before it.
        before = columns - torch.arange(columns.shape[1], device=columns.device)
        return self.along(position_ids) - before

    def hidden(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, T + later, D] that begin with the prompt -> the reduced ones."""
        slots = self.slots
        if self.erased is not None:
            hidden = hidden.scatter(1, self.erased.unsqueeze(-1).expand(-1, -1, hidden.shape[2]), 0)
        if self.keep is not None:
            hidden = take(hidden, self._kept_columns(hidden.shape[1]))
            slots = torch.searchsorted(self.keep.contiguous(), slots.contiguous())
        if self.values is not None:
            hidden = hidden.scatter(1, slots.unsqueeze(-1).expand(-1, -1, hidden.shape[2]), self.values)
        return hidden

    def key_mask(self, mask: Tensor | None, total: int) -> Tensor | None:
        """A 2-D mask over keys [B, total], True or 1 = may be attended to; None = all. Afterwards likewise."""
        if self.visible is not None:
            later = self.visible.new_ones(self.visible.shape[0], total - self.length)
            visible = torch.cat([self.visible, later], 1)
            mask = visible if mask is None else mask.bool() & visible
        return None if mask is None else self.along(mask)

    def attention_mask(self, mask: Tensor | None, queries: int, keys: int, whole: bool) -> Tensor | None:
        """The mask a decoder layer gets, in whatever form its attention wants it.

        mask: None (causal or all), 2-D over keys, or 4-D [B or 1, 1, queries, keys], boolean or additive.
        queries, keys: their numbers before the reduction. whole: the queries are the whole sequence, so that they
        shrink too.
        """
        if mask is not None and mask.ndim == 2:
            if self.bias is not None:
                raise TokenselError("attn_implementation: methods that weigh tokens by size need sdpa or eager")
            return self.key_mask(mask, keys)
        if self.visible is not None:
            visible = self.key_mask(None, keys)
            assert visible is not None
            visible = visible[:, None, None, :]
            if mask is None:
                return self._causal(queries, keys, visible.device) & visible
            if mask.dtype == torch.bool:
                return mask & visible
            return mask.masked_fill(~visible, torch.finfo(mask.dtype).min)
        if self.bias is not None:
            mask = self._biased(mask, queries, keys)
        if mask is None or self.keep is None:
            return mask
        columns = self._kept_columns(keys)
        mask = mask.expand(columns.shape[0], -1, -1, -1)
        if whole:
            mask = mask.gather(2, columns[:, None, :, None].expand(-1, mask.shape[1], -1, keys))
        return mask.gather(3, columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))

    @staticmethod
    def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)

    def _biased(self, mask: Tensor | None, queries: int, keys: int) -> Tensor:
        """The mask with the keys' bias, additive: [B, 1, queries, keys]."""
        assert self.bias is not None
        bias = nn.functional.pad(self.bias, (0, keys - self.length))[:, None, None, :]
        if mask is None:
            mask = self._causal(queries, keys, bias.device)
        return torch.where(mask, bias, torch.finfo(bias.dtype).min) if mask.dtype == torch.bool else mask + bias

    def decoder_mask(self, mask: Tensor | None, queries: int, keys: int) -> Tensor | None:
        """What a decoder gets that starts behind the reduction: the 2-D mask over `keys` keys, before it, reduced; or
        a 4-D one where keys have a bias. queries: their number afterwards."""
        reduced = self.key_mask(mask, keys)
        if self.bias is None:
            return reduced
        remaining = keys - self.removed
        allowed = self._causal(queries, remaining, self.bias.device)[None, None]
        if reduced is not None:
            allowed = allowed & reduced.bool()[:, None, None, :]
        bias = self.along(nn.functional.pad(self.bias, (0, keys - self.length)))[:, None, None, :]
        return torch.where(allowed, bias, torch.finfo(bias.dtype).min)
