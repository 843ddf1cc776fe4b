"""fastvid: segments of similar frames, attended tokens of each frame, and dense tokens that the rest is merged into."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import anchor_quotas, frame_density_order, rank, temporal_segments
from tokensel.functional.similarity import ROUNDING, inverse_norms
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
        for name in ("segments", "step"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TokenselError(f"{name}={value!r}: must be an integer from 1")
        for name, least in (("threshold", -1), ("merged", 0), ("weight", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= 1:
                raise TokenselError(f"{name}={value!r}: must be from {least} to 1")

    def select(self, context: Context) -> Selection:
        tokens, frames = context.tokens.float(), context.frames
        batch, places = len(tokens), context.count // frames
        entered = context.inputs[0].float().unflatten(1, (frames, places)).mean(2)
        segment = temporal_segments(entered, self.segments, self.threshold)
        share, more = divmod(context.kept, frames)
        each = int(share * self.merged)
        attention = context.vision.cls_attention().mean(1).view(batch * frames, places)
        order = rank(attention).argsort(1).view(batch, frames, places)
        wanted = share - each + (torch.arange(frames, device=tokens.device) < more).long()
        attended = order < wanted.view(1, -1, 1)
        quotas = anchor_quotas(segment, each, places - int(share - each + (more > 0)), self.step)
        dense = frame_density_order(tokens.view(batch * frames, places, -1), attended.view(-1, places)).argsort(1)
        anchors = dense.view(batch, frames, places) < quotas.unsqueeze(2)
        chosen = (attended | anchors).flatten(1)
        positions = (~chosen).to(torch.uint8).sort(dim=1, stable=True).indices[:, : context.kept]
        weights = self._weights(tokens, segment, attended, anchors, positions)

        def apply(features: Tensor) -> Tensor:
            return torch.bmm(weights, features.float()).to(features.dtype)

        return Selection(positions, apply(context.tokens), merge=apply)

    def _weights(self, tokens: Tensor, segment: Tensor, attended: Tensor, anchors: Tensor, positions: Tensor) -> Tensor:
        """What each survivor is made of: [B, M, N]. attended, anchors: BoolTensor[B, F, P]."""
        batch, count, _ = tokens.shape
        frames, places = anchors.shape[1:]
        units = tokens * inverse_norms(tokens).unsqueeze(-1)
        slots = torch.zeros(batch, count, dtype=torch.long, device=tokens.device)
        kept = torch.arange(positions.shape[1], device=tokens.device).expand_as(positions)
        slots = slots.scatter(1, positions, kept)
        own = torch.zeros(batch, positions.shape[1], count, device=tokens.device)
        joined, own = own.clone(), own.scatter(2, positions.unsqueeze(2), 1)
        for frame in range(frames):
            here = anchors[:, frame]
            similarity = torch.bmm(units, units[:, frame * places : (frame + 1) * places].transpose(1, 2))
            similarity = similarity.masked_fill(~here.unsqueeze(1), -torch.inf)
            best = (similarity >= similarity.amax(2, keepdim=True) - ROUNDING).to(torch.uint8).argmax(2)
            joins = (segment == segment[:, frame : frame + 1]).repeat_interleave(places, 1) & ~attended.flatten(1)
            joins = joins & here.any(1, keepdim=True)
            joined = joined.scatter_add(
                1, slots.gather(1, best + frame * places).unsqueeze(1), joins.float().unsqueeze(1)
            )
        number = joined.sum(2, keepdim=True)
        weight = torch.where(number > 0, (1 / (number + 1)).clamp_min(self.weight), 1)
        return weight * own + (1 - weight) * joined / number.clamp_min(1)

    def flops(self, sizes: Sizes) -> int:
        return sizes.cls_attention() + sizes.cosines(sizes.count) + sizes.cosines(sizes.kept)
