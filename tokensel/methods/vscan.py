"""vscan: the best tokens of each window and of the whole picture, then what the last token attends to."""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import grid_windows, keep_best, local_global_scan, merge_nearest
from tokensel.methods.base import Method, by_factor
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class VScan(Method):
    """Scan the picture locally and globally by [CLS] attention, merge the rest in, and prune once more by the text.

    Before the decoder (agg_layer=0), half of the tokens are the best of each window of the grid, by the [CLS] attention
    of a shallow layer of the vision tower, and the others the best of the whole picture, by that of the second-to-last
    layer. Dropped tokens are averaged into the most similar of them (cosine), after the projector. Inside the decoder,
    the tokens remain that the prompt's last token attends to in the layer that follows; nothing is merged. Heads are
    averaged, and position ids are renumbered.

    Source: Zhang et al., VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models,
        https://arxiv.org/abs/2505.22654, and its release, https://github.com/Tencent/SelfEvolvingAgent. Its budgets on
        LLaVA-1.5 are 288, 192 and 96 tokens before layer 0, and a third of them before layer 16.
    Parameters:
        windows: "equal" = the same number from each window, so that up to one token less per window remains than was
            asked for; "limit" = by falling score, with a limit for each window, as in the release for Qwen2.5-VL.
        window: the side of a window in tokens; 4 in the release for Qwen2.5-VL.
        shallow: the layer of the tower for the local scan; None = 5 of 24, a quarter of the depth elsewhere.
        rotary: whether queries and keys inside the decoder are rotated; not in the release for Qwen2.5-VL.
    Our reading: a single kept is a third of what remains after the first stage, as in the release's budgets. The
        release takes pictures of 24 x 24 tokens and at least two per window; for others "equal" does as "limit", and
        rows and columns that fill no window join the last one.
    """

    name: ClassVar[str] = "vscan"
    default_layers: ClassVar[tuple[int, ...]] = (0, 16)
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    windows: str = "equal"
    window: int = 6
    shallow: int | None = None
    rotary: bool = True

    def __post_init__(self) -> None:
        _check(self.windows, window=(self.window, 1), shallow=(self.shallow or 0, 0))

    def select(self, context: Context) -> Selection:
        if context.layer:
            return Selection(keep_best(_last_attention(context, self.rotary).mean(1), context.kept))
        near, far = (context.vision.cls_attention(layer).mean(1) for layer in (_shallow(context, self.shallow), -2))
        everywhere, (rows, cols) = context.kept - context.kept // 2, context.grid
        local = self.remaining(context.kept, context.count) - everywhere
        window, windows = grid_windows(rows, cols, self.window, near.device)
        positions, rest = local_global_scan(near, far, window, windows, local, everywhere)
        return _merging(context.tokens, positions, rest)

    def flops(self, sizes: Sizes) -> int:
        targets = self.remaining(sizes.kept, sizes.count)
        scanning = 2 * sizes.cls_attention() + 2 * targets * (sizes.count - targets) * sizes.hidden
        return sizes.attention("last", layer="next") if sizes.layer else scanning

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return by_factor(3, kept, count, stages)

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int:
        side, local = math.isqrt(count), kept // 2
        windows = max(1, side // self.window) ** 2
        equal = not layer and self.windows == "equal" and side**2 == count and local >= windows
        return kept - local % windows if equal else kept


def _check(windows: str, **integers: tuple[int, int]) -> None:
    if windows not in ("equal", "limit"):
        raise TokenselError(f"windows={windows!r}: choose from equal, limit")
    for name, (value, least) in integers.items():
        if not isinstance(value, int) or value < least:
            raise TokenselError(f"{name}={value!r}: must be an integer from {least}")


def _shallow(context: Context, layer: int | None) -> int:
    return max(0, round(len(context.vision.layers) / 4) - 1) if layer is None else layer


def _last_attention(context: Context, rotary: bool) -> Tensor:
    """`context.attention` of the last token in the next layer, with rotary embedding or without: [B, heads, N]."""
    if rotary:
        return cast(Tensor, context.attention("last", layer="next"))
    projections = [("query", "last"), ("key", "visual"), ("key", "text")]
    query, visual, text = (cast(Tensor, context.project(part, tokens, "next")) for part, tokens in projections)
    keys = torch.cat([visual, text], 1).permute(0, 2, 3, 1)  # [B, key heads, d, N + S]
    scores = torch.matmul(query.squeeze(1).unflatten(1, (keys.shape[1], -1)), keys).float() * query.shape[-1] ** -0.5
    padding = torch.nn.functional.pad(~(context.text_mask | context.before_picture), (context.count, 0))
    probabilities = scores.masked_fill(padding[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)
    return probabilities.flatten(1, 2)[..., : context.count]


def _merging(tokens: Tensor, positions: Tensor, rest: Tensor) -> Selection:
    """The tokens at `positions`, with those at `rest` merged into the nearest."""

    def merge(along: Tensor) -> Tensor:
        width = tokens.shape[2]
        return merge_nearest(torch.cat([tokens, along], 2), positions, rest, width)[..., width:]

    return Selection(positions, merge_nearest(tokens, positions, rest), merge=merge)
