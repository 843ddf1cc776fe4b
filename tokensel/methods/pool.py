"""pool: averages over the cells of a grid; a control."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.functional import cell_centers, grid_cells
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Pool(Method):
    """Average pooling: each survivor carries the mean of its grid cell and has the position of the cell's middle token.

    The picture is divided into `kept` cells, as square and as even as possible, for any kept. On 24 x 24 tokens kept=64
    is 3 x 3 pooling, a common control in papers on token reduction.

    Source: none, a control.
    Parameters: none.
    """

    name: ClassVar[str] = "pool"
    returns_values: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        tokens, kept = context.tokens, context.kept
        rows, cols = context.grid
        cells = grid_cells(rows, cols, kept).to(tokens.device)
        member = torch.nn.functional.one_hot(cells, kept).to(torch.float32)
        shares = (member / member.sum(0)).T

        def mean(along: Tensor) -> Tensor:
            return (shares @ along.float()).to(along.dtype)

        centers = cell_centers(rows, cols, kept).to(tokens.device)
        return Selection(centers.expand(tokens.shape[0], -1), mean(tokens), merge=mean)

    def flops(self, sizes: Sizes) -> int:
        return sizes.cosines(sizes.kept)
