"""density: density-peaks clustering."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import dpc_knn
from tokensel.methods.base import OrderingMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class DensityPeaks(OrderingMethod):
    """Keep cluster centres, that is, tokens that are dense and far from any denser token.

    Each survivor carries the mean of its cluster. Distance is 1 - cosine, and density is computed from the nearest
    neighbours. Unlike the centres of "tome", these do not crowd where tokens are similar.

    Source: density peaks clustering with k nearest neighbours, Rodriguez and Laio 2014, Du et al. 2016; for visual
        tokens: Zeng et al., TCFormer, CVPR 2022, https://arxiv.org/abs/2204.08680.
    Parameters:
        neighbours: the number of nearest neighbours that define the density.
    """

    name: ClassVar[str] = "density"
    default_coverage: ClassVar[float | None] = 0.73
    default_aggregation: ClassVar[str] = "mean"
    default_position: ClassVar[str] = "front"
    min_kept: ClassVar[int] = 1

    neighbours: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise TokenselError(f"neighbours={self.neighbours!r}: must be an integer from 1")

    def order(self, context: Context) -> Tensor:
        return dpc_knn(context.tokens, context.kept, self.neighbours)[0]

    def flops(self, sizes: Sizes) -> int:
        return sizes.density_peaks(sizes.count, sizes.kept)
