"""divprune: the most diverse subset, before the first layer."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.functional import farthest_point_sampling
from tokensel.methods.base import OrderingMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class DivPrune(OrderingMethod):
    """Keep the subset with the largest minimum distance: farthest point sampling from the most isolated token.

    It runs on the projected features, before the first layer. The first choice is the token whose nearest neighbour is
    farthest away. Survivors keep their states and the order of the picture, and position ids are renumbered.

    Source: Alvar et al., DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, CVPR 2025,
        https://arxiv.org/abs/2503.02175.
    Parameters: none.
    """

    name: ClassVar[str] = "divprune"
    default_coverage: ClassVar[float | None] = 0.74
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    default_position: ClassVar[str] = "renumber"
    min_kept: ClassVar[int] = 1

    def order(self, context: Context) -> Tensor:
        return farthest_point_sampling(context.tokens, context.kept, "peripheral")

    def flops(self, sizes: Sizes) -> int:
        return sizes.cosines(sizes.count + sizes.kept - 1)
