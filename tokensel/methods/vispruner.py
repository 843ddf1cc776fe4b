"""vispruner: half of the tokens by [CLS] attention, the others by removing duplicates."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import rank, remove_duplicates
from tokensel.functional.similarity import ROUNDING
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class VisPruner(Method):
    """Keep the tokens that [CLS] attends to, and diverse tokens of the rest, in the order of the picture.

    It runs before the first layer, on the features before the projector and the [CLS] attention (mean over heads) of
    the vision tower's second-to-last layer. The rest, ordered by falling attention, loses up to 8 tokens in each round:
    those at even places with the largest cosine to a token at an odd place. Survivors carry their own projected
    features.

    Source: Zhang et al., Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs,
        ICCV 2025, https://arxiv.org/abs/2412.01818.
    Parameters:
        important_ratio: the share of kept that is chosen by attention, rounded down.
    """

    name: ClassVar[str] = "vispruner"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.important_ratio <= 1:
            raise TokenselError(f"important_ratio={self.important_ratio!r}: must be from 0 to 1")

    def select(self, context: Context) -> Selection:
        vision, important = context.vision, int(context.kept * self.important_ratio)
        # Neighbours that change places change every later round, so only rounding counts as a tie.
        order = rank(vision.cls_attention().mean(1), ROUNDING)
        diverse = remove_duplicates(vision.features, order[:, important:], context.kept - important)
        return Selection(torch.cat([order[:, :important], diverse], 1).sort(dim=1).values)

    def flops(self, sizes: Sizes) -> int:
        important = int(sizes.kept * self.important_ratio)
        rest = sizes.count - important if sizes.kept > important else 0
        return sizes.cls_attention() + sizes.vision_cosines(rest)
