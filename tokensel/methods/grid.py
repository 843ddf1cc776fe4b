"""grid: evenly spaced tokens, whatever the picture shows; a control."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.functional import cell_centers
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Grid(Method):
    """Keep the middle token of each cell of a uniform grid, whatever the picture shows.

    The picture is divided into `kept` cells, as square and as even as possible, for any kept.

    Source: none, a control.
    Parameters: none.
    """

    name: ClassVar[str] = "grid"
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        rows, cols = context.grid
        centers = cell_centers(rows, cols, context.kept).to(context.row_keys.device)
        return Selection(centers.sort().values.expand(len(context.row_keys), -1))

    def flops(self, sizes: Sizes) -> int:
        return 0
