"""himap: rank by the text's attention in a first stage, then by the picture's own."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import row_scores
from tokensel.methods.base import ScoringMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class HiMAP(ScoringMethod):
    """Rank by the attention of the text in the first stage and by that of the visual tokens in later stages.

    Early layers move information from the picture to the text; later layers work within the picture. The score is the
    previous layer's attention, averaged over heads and summed over the instruction (first stage) or over the remaining
    visual tokens (later stages).

    Source: Yin et al., Lifting the Veil on Visual Information Flow in MLLMs: Unlocking Pathways to Faster Inference,
        CVPR 2025, https://arxiv.org/abs/2503.13108, and its release. The paper keeps 288 tokens at layer 2 and 72 at
        layer 8.
    Parameters:
        cut_off_layer: the decoder layer before which all visual tokens are removed; None = no such layer.
        seed: for agg_layer=0, which has no previous layer: a random subset is kept.
    Our reading: with a single kept, each stage keeps four times as many tokens as the next.
    """

    name: ClassVar[str] = "himap"
    default_coverage: ClassVar[float | None] = 0.75
    uses_attention: ClassVar[bool] = True
    default_layers: ClassVar[tuple[int, ...]] = (2, 8)

    cut_off_layer: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        layer = self.cut_off_layer
        if layer is not None and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 1):
            raise TokenselError(f"cut_off_layer={layer!r}: must be a layer from 1, or None")

    def score(self, context: Context) -> Tensor:
        attention = context.attention("text" if context.stage == 0 else "image")
        if attention is None:
            return -row_scores(self.seed, context.row_keys, context.count)
        return attention.mean(1)

    def masses(self, context: Context, scores: Tensor) -> Tensor:
        return super().masses(context, scores) if context.layer else scores.new_ones(scores.shape)

    def flops(self, sizes: Sizes) -> int:
        return sizes.attention("text" if sizes.stage == 0 else "image")

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return tuple(min(count, kept * 4 ** (stages - 1 - stage)) for stage in range(stages))

    def cut_off(self) -> int | None:
        return self.cut_off_layer

    def draws(self, layer: int) -> bool:
        return layer == 0
