"""prumerge: the tokens that [CLS] attends to, with similar tokens merged into them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import keep_best, weighted_merge
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class PruMerge(Method):
    """Keep the tokens with the most [CLS] attention in the vision tower's last layer, and merge the others into them.

    Each kept token adds the sum of the tokens with the most similar keys (cosine), weighted by their [CLS] attention,
    before the projector.

    Source: Shang et al., LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, ICCV 2025,
        https://arxiv.org/abs/2403.15388.
    Parameters:
        neighbours: the number of tokens that are merged into each kept token.
    Our reading: the paper keeps the outliers of the attention (by interquartile range), whose number differs between
        pictures. Here `kept` is that number, in the same ranking, so that methods are compared at equal cost. Attention
        is the mean over heads. Survivors are in the order of the picture, and position ids are renumbered.
    """

    name: ClassVar[str] = "prumerge"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    neighbours: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise TokenselError(f"neighbours={self.neighbours!r}: must be an integer from 1")

    def select(self, context: Context) -> Selection:
        vision = context.vision
        attention = vision.cls_attention(-1).mean(1)
        positions = self.choose(attention, context.kept)
        keys = vision.keys(-1).flatten(2)
        values = weighted_merge(vision.features, keys, attention, positions, self.neighbours)
        return Selection(positions, vision.project(values))

    def flops(self, sizes: Sizes) -> int:
        merging = 2 * sizes.kept * sizes.count * sizes.vision_width
        return sizes.cls_attention() + sizes.vision_keys() + merging + sizes.kept * sizes.projector

    def choose(self, attention: torch.Tensor, kept: int) -> torch.Tensor:
        """The tokens to keep, ascending: attention [B, N] -> LongTensor[B, kept]."""
        return keep_best(attention, kept)
