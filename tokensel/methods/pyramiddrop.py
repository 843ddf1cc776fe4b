"""pyramiddrop: drop by halves, layer group after layer group."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.methods.base import Method, geometric
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class PyramidDrop(Method):
    """Few tokens suffice in deep layers: rank by the last instruction token's attention in the layer about to come.

    The query and the keys are that layer's own (its norm, projections and rotary embedding on the present states),
    mean over heads. Survivors keep their order, and position ids are numbered anew. By the paper 50%, 25% and 12.5%
    remain after layers 8, 16 and 24; given one number, kept falls to it by equal factors.

    Source: Xing et al., PyramidDrop (CVPR 2025). Our reading: the softmax over the whole prompt is taken before the
    mean over heads.
    """

    name: ClassVar[str] = "pyramiddrop"
    default_layers: ClassVar[tuple[int, ...]] = (8, 16, 24)
    default_position: ClassVar[str] = "renumber"

    def select(self, context: Context) -> Selection:
        attention = context.attention("last", layer="next")
        assert attention is not None
        best = attention.mean(1).sort(dim=1, descending=True, stable=True).indices
        return Selection(best[:, : context.kept].sort(dim=1).values)

    def flops(self, sizes: Sizes) -> int:
        return sizes.attention("last", layer="next")

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return geometric(kept, count, stages)
