"""Choices that hang on a tie: a method sees its inputs again with tiny noise, and its choice should stay the same.

    watch = TieWatch()
    stages = [replace(stage, watch=watch) for stage in stages]
    ...                                      # reduce with these stages
    watch.of(row_keys)                       # which rows' choices changed

Batches of other sizes, other processors and other kernels round differently: a row that changes here can change there.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tokensel.engine.checks import is_ours
from tokensel.functional import nearest_mean, take
from tokensel.methods import Context, Selection
from tokensel.models.vision import VisionStates

# Relative to each number. In half precision: a quarter of the spacing of numbers, which moves some of them.
NOISE = 1e-6
# Values that survivors carry follow the noise; a larger relative change is another member or cluster.
VALUES_CHANGED = 1e-3
# A prime, so that tensors of any shape meet the pattern at another place in each row and dimension.
_PATTERN = 65_537


@dataclass
class TieWatch:
    """Collects which rows chose differently under noise, over all stages and pictures of a batch."""

    keys: list[Tensor] = field(default_factory=list)
    changed: list[Tensor] = field(default_factory=list)

    def look(self, stage: Any, context: Context, selection: Selection) -> None:
        """Lets a Stage choose twice more, under some noise and under its opposite, and compares.

        Of two numbers that are all but equal, one noise or the other changes the order.
        """
        ours = is_ours(stage.method)
        # A user's method may keep state: a copy of it is asked.
        stage = stage if ours else replace(stage, method=copy.deepcopy(stage.method))
        changed = torch.zeros(len(context.row_keys), dtype=torch.bool, device=selection.indices.device)
        for sign in (1.0, -1.0):
            noisy = with_noise(context, sign)
            with torch.random.fork_rng(enabled=not ours):  # a user's method may draw numbers
                again = stage.choose(noisy)
            changed |= _differs(stage, context, selection, noisy, again)
        self.keys.append(context.row_keys)
        self.changed.append(changed)

    def of(self, row_keys: Tensor) -> list[bool] | None:
        """For each row whether its choice hangs on a tie; None if nothing was chosen."""
        if not self.keys:
            return None
        same = row_keys.to(self.changed[0].device).unsqueeze(1) == torch.cat(self.keys).unsqueeze(0)
        return (same & torch.cat(self.changed).unsqueeze(0)).any(1).tolist()


def with_noise(context: Context, sign: float = 1.0) -> Context:
    """The context with every float tensor that it offers changed by relative Gaussian noise.

    The noise of a row depends on its key, the layer and the tensor's shape only. sign: 1, or -1 for the opposite.
    """
    offsets = [(key ^ (context.layer * 0x9E3779B1)) % _PATTERN for key in context.row_keys.tolist()]
    return context.through(lambda source: _Noisy(source, offsets, sign), ("noise", sign))


class _Noisy:
    """Stands for a ContextSource or VisionStates: whatever it returns is changed by noise."""

    def __init__(self, inner: Any, offsets: Sequence[int], sign: float) -> None:
        self._inner, self._offsets, self._sign = inner, offsets, sign

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance sees what it stands for
        return type(self._inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if callable(found) and not isinstance(found, torch.nn.Module):
            return lambda *args, **kwargs: self._changed(found(*args, **kwargs))
        return self._changed(found)

    def _changed(self, found: Any) -> Any:
        if isinstance(found, Tensor):
            return self._perturbed(found)
        if isinstance(found, VisionStates):
            return _Noisy(found, self._offsets, self._sign)
        if isinstance(found, tuple):
            return tuple(map(self._changed, found))
        if isinstance(found, list) and found and isinstance(found[0], Tensor):
            return _NoisyList(found, self)
        return found

    def _perturbed(self, found: Tensor) -> Tensor:
        if not found.is_floating_point() or len(found) != len(self._offsets) or not found.numel():
            return found
        size = found[0].numel()
        pattern = _pattern(found.device, -(-size // _PATTERN))
        noise = torch.stack([pattern[offset : offset + size] for offset in self._offsets]).view(found.shape)
        spacing = torch.finfo(found.dtype).eps / 4
        return torch.addcmul(found, found, noise.to(found.dtype), value=self._sign * max(NOISE, spacing))


class _NoisyList(Sequence[Any]):
    """A list of tensors, of which each is changed when it is asked for."""

    def __init__(self, inner: list[Tensor], noisy: _Noisy) -> None:
        self._inner, self._noisy = inner, noisy

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: Any) -> Any:
        return self._noisy._changed(self._inner[index])


@cache
def _pattern(device: torch.device, repeats: int) -> Tensor:
    """Gaussian numbers, the same ones over and over, long enough to begin anywhere in the first repetition."""
    numbers = torch.randn(_PATTERN, generator=torch.Generator().manual_seed(0))
    return numbers.repeat(repeats + 1).to(device)


def _differs(stage: Any, context: Context, one: Selection, noisy: Context, other: Selection) -> Tensor:
    """BoolTensor[B]: rows whose survivors differ. Their order counts where they take other tokens' places."""
    a, b = _entries(one, stage.position != "source"), _entries(other, stage.position != "source")
    width = max(a.shape[1], b.shape[1])
    a, b = (torch.nn.functional.pad(each, (0, width - each.shape[1]), value=-2) for each in (a, b))
    differs = (a != b).any(1)
    values = _carried(stage, context, one), _carried(stage, noisy, other)
    if values[0] is not None and values[1] is not None and values[0].shape == values[1].shape:
        first, second = (each.float() for each in values if each is not None)
        distance = torch.linalg.vector_norm(first - second, dim=-1)
        moved = distance > VALUES_CHANGED * torch.linalg.vector_norm(first, dim=-1)
        if one.counts is not None:
            moved = moved & (torch.arange(moved.shape[1], device=moved.device) < one.counts.unsqueeze(1))
        differs = differs | moved.any(1)
    return differs


def _entries(selection: Selection, ordered: bool) -> Tensor:
    """The chosen indices, sorted unless ordered; -2 where a row has fewer."""
    indices = selection.indices
    if selection.counts is not None:
        places = torch.arange(indices.shape[1], device=indices.device)
        indices = indices.masked_fill(places >= selection.counts.unsqueeze(1), -2)
    return indices if ordered else indices.sort(dim=1, descending=True).values


def _carried(stage: Any, context: Context, selection: Selection) -> Tensor | None:
    """What the survivors carry where that hangs on a choice too: which tokens belong to which survivor."""
    if selection.values is None and stage.aggregation == "mean" and selection.counts is None:
        centers = take(context.tokens, selection.indices.clamp_min(0))
        return nearest_mean(centers, context.tokens, weights=context.weights)
    return selection.values
