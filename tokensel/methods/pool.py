"""pool: the picture averaged over a grid."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.functional import cell_centers, grid_cells
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Pool(Method):
    """Average pooling to a grid: each survivor is the mean of its cell, and stands in the cell's middle.

    Any kept works: the picture is cut into that many cells, as square and even as possible; on a 24 x 24 picture 64 is
    pooling by 3 x 3, the usual control of token-reduction papers.
    """

    name: ClassVar[str] = "pool"
    returns_values: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        tokens, kept = context.tokens, context.kept
        cells = grid_cells(*context.grid, kept).to(tokens.device)
        member = torch.nn.functional.one_hot(cells, kept).to(torch.float32)
        means = (member / member.sum(0)).T @ tokens.float()
        centers = cell_centers(*context.grid, kept).to(tokens.device)
        return Selection(centers.expand(tokens.shape[0], -1), means.to(tokens.dtype))

    def flops(self, sizes: Sizes) -> int:
        return sizes.cosines(sizes.kept)
