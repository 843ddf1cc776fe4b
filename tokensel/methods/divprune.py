"""divprune: the most diverse subset before the first layer."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.functional import farthest_point_sampling
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class DivPrune(Method):
    """Max-min diversity of the projected features: farthest point sampling from the most isolated token.

    Nothing is aggregated, and survivors stand in the picture's order. Source: Alvar et al., DivPrune (CVPR 2025), as
    released: the paper's own figures came from unsorted indices. Our reading: the decoder gets a short picture, so
    position ids close up.
    """

    name: ClassVar[str] = "divprune"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    default_position: ClassVar[str] = "renumber"
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        chosen = farthest_point_sampling(context.tokens, context.kept, "peripheral")
        return Selection(chosen.sort(dim=1).values)

    def flops(self, sizes: Sizes) -> int:
        return sizes.cosines(sizes.count + sizes.kept - 1)
