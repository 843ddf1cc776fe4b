"""no_image: every visual token removed, the lower control."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class NoImage(Method):
    """Remove every visual token. At agg_layer=0 this measures what the text alone achieves.

    Source: none, a control.
    Parameters: none.
    """

    name: ClassVar[str] = "no_image"
    fixed_kept: ClassVar[int | None] = 0
    default_layers: ClassVar[tuple[int, ...]] = (0,)

    def select(self, context: Context) -> Selection:
        return Selection(context.row_keys.new_empty((len(context.row_keys), 0)))

    def flops(self, sizes: Sizes) -> int:
        return 0
