"""fastvid: segments of similar frames, attended tokens of each frame, and dense tokens that the rest is merged into."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import anchor_weights, attended_and_anchors, temporal_segments
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class FastVID(Method):
    """Cut the video into segments of similar frames; keep of each frame what is attended to most, and merge the other
    tokens of a segment into dense ones of some of its frames.

    Source: Shen et al., FastVID, NeurIPS 2025, https://arxiv.org/abs/2503.11187, and its release for LLaVA-OneVision.
    Parameters:
        segments: the least number of segments.
        threshold: frames whose similarity is below it belong to different segments.
        merged: the share of a frame's tokens that are anchors; the others are kept for their attention.
        step: of a segment, the last frame and every `step`-th before it hold the anchors.
        weight: the least weight of an anchor's own state in what it carries.
    Our reading: a frame's feature is the mean of its visual tokens as they enter the decoder, as in the release for
        Qwen2.5-VL; the one for LLaVA-OneVision has SigLIP's pooled output. Attention is that of the vision tower as
        other methods use it. Exactly `kept` tokens remain: what the release loses to rounding goes to the first anchor
        frames, and the remainder of kept / frames to attended tokens of the first frames. Where the anchors of a
        segment do not fit in their frames, frames at a smaller step hold them.
    """

    name: ClassVar[str] = "fastvid"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    segments: int = 8
    threshold: float = 0.9
    merged: float = 0.4
    step: int = 4
    weight: float = 0.6

    def __post_init__(self) -> None:
        bounds = {"segments": (1, None), "step": (1, None), "threshold": (-1, 1), "merged": (0, 1), "weight": (0, 1)}
        for name, (least, most) in bounds.items():
            value, kind = getattr(self, name), int if most is None else int | float
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= (most or value):
                allowed = f"an integer from {least}" if most is None else f"from {least} to {most}"
                raise TokenselError(f"{name}={value!r}: must be {allowed}")

    def select(self, context: Context) -> Selection:
        features = context.inputs[0].unflatten(1, (context.frames, -1)).float().mean(2)
        segment = temporal_segments(features, self.segments, self.threshold)
        attention = context.vision.cls_attention().mean(1)
        attended, anchors = attended_and_anchors(
            context.tokens, attention, segment, context.kept, self.merged, self.step
        )
        chosen = (attended | anchors).to(torch.uint8)
        positions = chosen.sort(dim=1, descending=True, stable=True).indices[:, : context.kept]
        weights = anchor_weights(context.tokens, segment, attended, anchors, positions, self.weight)

        def apply(states: Tensor) -> Tensor:
            return torch.bmm(weights, states.float()).to(states.dtype)

        return Selection(positions, apply(context.tokens), merge=apply)

    def flops(self, sizes: Sizes) -> int:
        return sizes.cls_attention() + sizes.cosines(sizes.count) + sizes.cosines(sizes.kept)
