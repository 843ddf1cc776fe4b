"""density: a clustering that really clusters, density peaks."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.errors import TokenselError
from tokensel.functional import dpc_knn
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class DensityPeaks(Method):
    """Cluster centres are dense and far from anything denser; survivors carry the mean of their cluster.

    What the medoid rule "tome" set out to be: its centres crowd where tokens are alike, these do not. Density is that
    of the nearest neighbours under 1 - cosine. Source: density peaks clustering with k nearest neighbours (Rodriguez
    and Laio 2014; Du et al. 2016), known for visual tokens from TCFormer (CVPR 2022).

    neighbours: how many make the density.
    """

    name: ClassVar[str] = "density"
    default_aggregation: ClassVar[str] = "mean"
    default_position: ClassVar[str] = "front"
    min_kept: ClassVar[int] = 1

    neighbours: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise TokenselError(f"neighbours={self.neighbours!r}: must be an integer from 1")

    def select(self, context: Context) -> Selection:
        return Selection(dpc_knn(context.tokens, context.kept, self.neighbours)[0])

    def flops(self, sizes: Sizes) -> int:
        return sizes.density_peaks(sizes.count, sizes.kept)
