"""pyramiddrop: drop half of the visual tokens after each group of layers."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.methods.base import ScoringMethod, geometric
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class PyramidDrop(ScoringMethod):
    """Rank by the last instruction token's attention in the layer that follows; deeper layers keep fewer tokens.

    The attention is that of the next layer on the current hidden states, averaged over heads. Position ids are
    renumbered.

    Source: Xing et al., PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
        Reduction, CVPR 2025, https://arxiv.org/abs/2410.17247. The paper keeps 50%, 25% and 12.5% after layers 8, 16
        and 24.
    Parameters: none.
    Our reading: a single kept of an eighth of the picture halves the number of tokens three times, rounded down, as in
        the release; another one is reached by equal factors.
    """

    name: ClassVar[str] = "pyramiddrop"
    default_coverage: ClassVar[float | None] = 0.995
    default_layers: ClassVar[tuple[int, ...]] = (8, 16, 24)
    default_position: ClassVar[str] = "renumber"

    def score(self, context: Context) -> Tensor:
        attention = context.attention("last", layer="next")
        assert attention is not None
        return attention.mean(1)

    def flops(self, sizes: Sizes) -> int:
        return sizes.attention("last", layer="next")

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        halved = tuple(count >> (stage + 1) for stage in range(stages))
        return halved if halved[-1] == kept else geometric(kept, count, stages)
