"""feather: what the last token attends to without regard to position, with a uniform set in the first of two stages."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import keep_best
from tokensel.methods.base import Method, geometric
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Feather(Method):
    """Rank by the last token's attention without rotary embedding; the first stage also keeps a uniform grid.

    Rotary embedding makes tokens near the end of the picture look more important than they are, so queries and keys are
    not rotated. The attention is that of the layer before; its softmax runs over the visual tokens alone and precedes
    the mean over heads. In the first stage, the tokens in every third row and column of the picture remain as well.

    Source: Endo et al., Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration,
        ICCV 2025, https://arxiv.org/abs/2412.13180, and its release, https://github.com/markendo/FEATHER.
    Parameters:
        ratio: the release's share to remove, 0.7 in its scripts: with r = 1 - ratio, the first stage keeps int(N r)
            tokens and the uniform ones, and the second int(r^2) of what is left. How many that are depends on the
            picture, and `kept` means nothing. None: `kept` remain after the last stage, by the r that gives as
            many on average.
        stride: every how many rows and columns the uniform tokens stand; None: there are none, and each stage keeps the
            same share.
        rotary: rotate queries and keys after all, as the release's FastV does.
    Our reading: with ratio=None, the first stage ranks the other tokens behind the uniform ones until it has the number
        that this r gives on average; where it keeps fewer than there are uniform ones, it keeps the best of those. At
        layer 0, the attention is that of layer 0.
    """

    name: ClassVar[str] = "feather"
    default_layers: ClassVar[tuple[int, ...]] = (8, 16)
    uses_attention: ClassVar[bool] = True

    ratio: float | None = None
    stride: int | None = 3
    rotary: bool = False

    def __post_init__(self) -> None:
        _check(self.ratio, self.stride)

    def select(self, context: Context) -> Selection:
        score = _attention(context, self.rotary)
        uniform = _uniform(context, self.stride) if self.stride and context.stage == 0 else None
        if self.ratio is None:
            return Selection(keep_best(score if uniform is None else score + 2 * uniform, context.kept))
        share = 1 - self.ratio
        if uniform is None:
            return Selection(keep_best(score, int(context.count * (share * share if self.stride else share))))
        return _union(keep_best(score, int(context.count * share)), uniform)

    def flops(self, sizes: Sizes) -> int:
        keys = 0 if self.rotary and sizes.layer else sizes.keys()  # the cache holds rotated ones
        return keys + 2 * sizes.query_width * (sizes.hidden + sizes.count)

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int | None:
        if self.ratio is None or (self.stride and not stage):
            return kept if self.ratio is None else None
        share = 1 - self.ratio
        return int(count * (share * share if self.stride else share))

    def decides_count(self) -> bool:
        return self.ratio is not None

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        if stages == 1 or not self.stride:
            return geometric(kept, count, stages)
        return _two_stages(kept, count, stages, self.stride, self.ratio)


def _check(ratio: float | None, stride: int | None) -> None:
    if ratio is not None and (isinstance(ratio, bool) or not 0 <= ratio < 1):
        raise TokenselError(f"ratio={ratio!r}: must be a number from 0 and below 1, or null")
    if stride is not None and (not isinstance(stride, int) or isinstance(stride, bool) or stride < 1):
        raise TokenselError(f"stride={stride!r}: must be an integer from 1, or null")


def _union(best: Tensor, uniform: Tensor) -> Selection:
    """The best tokens, LongTensor[B, M], with the uniform ones, BoolTensor[N]: in order, and how many each row has."""
    chosen = uniform.expand(len(best), -1).clone().scatter(1, best, True)
    width = min(len(uniform), best.shape[1] + int(uniform.sum()))
    return Selection((~chosen).view(torch.uint8).sort(dim=1, stable=True).indices[:, :width], counts=chosen.sum(1))


def _two_stages(kept: int, count: int, stages: int, stride: int, ratio: float | None) -> tuple[int, ...]:
    """How many of `count` tokens each stage leaves, in the second `kept`; with a ratio, how many on average."""
    if stages > 2:
        raise TokenselError(f"agg_layer: method 'feather' has one or two stages, not {stages}")
    uniform = math.ceil(math.isqrt(count) / stride) ** 2
    share = _share(kept, count, uniform) if ratio is None else 1 - ratio
    first = min(count, round(count * share + uniform * (1 - share)))
    return first, min(first, kept if ratio is None else int(first * share**2))


def _share(kept: int, count: int, uniform: int) -> float:
    """The r at which (N r + U (1 - r)) r^2 tokens are `kept`, by bisection; U uniform ones are as often among the best
    as others."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        left = (count * middle + uniform * (1 - middle)) * middle**2
        low, high = (middle, high) if left < kept else (low, middle)
    return high


def _uniform(context: Context, stride: int) -> Tensor:
    """Which visual tokens stand in every `stride`-th row and column: BoolTensor[N]."""
    cols = context.grid[1]
    place = torch.arange(context.count, device=context.row_keys.device)
    return (place // cols % stride == 0) & (place % cols % stride == 0)


def _attention(context: Context, rotary: bool) -> Tensor:
    """The last token's attention among the visual tokens alone, averaged over heads: [B, N]."""
    layer = "previous" if context.layer else "next"
    query = context.project("query", "last", layer, rotary)
    key = context.project("key", "visual", layer, rotary)
    assert query is not None
    assert key is not None
    grouped = query.squeeze(1).unflatten(1, (key.shape[2], -1))  # [B, key heads, group, d]
    scores = torch.matmul(grouped.float(), key.float().permute(0, 2, 3, 1)) * query.shape[-1] ** -0.5
    return scores.softmax(-1).flatten(1, 2).mean(1)
