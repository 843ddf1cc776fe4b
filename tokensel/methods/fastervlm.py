"""fastervlm: the tokens that the vision tower's [CLS] attends to."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.methods.base import ScoringMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class FasterVLM(ScoringMethod):
    """Keep the tokens with the largest [CLS] attention, in the order of the picture.

    It runs before the first layer, with the [CLS] attention (mean over heads) of the vision tower's second-to-last
    layer. Survivors carry their own projected features.

    Source: Zhang et al., [CLS] Attention is All You Need for Training-Free Visual Token Pruning,
        https://arxiv.org/abs/2412.01818, its first version.
    Parameters: none.
    """

    name: ClassVar[str] = "fastervlm"
    default_coverage: ClassVar[float | None] = 0.39
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    def score(self, context: Context) -> Tensor:
        return context.vision.cls_attention().mean(1)

    def flops(self, sizes: Sizes) -> int:
        return sizes.cls_attention()
