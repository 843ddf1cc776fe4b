"""tome_merge: the original token merging, among the visual tokens."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.errors import TokenselError
from tokensel.functional import soft_merge
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class ToMeMerge(Method):
    """Bipartite soft matching, repeated until `kept` remain: alike tokens become their size-weighted mean.

    Even tokens propose to odd ones, the strongest pairs merge, at most half at a time. The metric is keys averaged over
    heads. Source: Bolya et al., Token Merging (ICLR 2023), and its release, there between the blocks of a vision
    transformer. Our reading for a decoder: keys of the layer about to come, before rotary embedding; merged keys are
    size-weighted means too; merging among visual tokens only, and a merged token stands where its destination stood,
    because causal attention does not allow any order.

    proportional: log(size) is added to the later layers' attention logits, the original's proportional attention.
    """

    name: ClassVar[str] = "tome_merge"
    returns_values: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    proportional: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.proportional, bool):
            raise TokenselError(f"proportional={self.proportional!r}: must be true or false")

    def select(self, context: Context) -> Selection:
        places, values, sizes = soft_merge(context.keys.mean(2), context.tokens, context.kept)
        return Selection(places, values, sizes if self.proportional else None)

    def flops(self, sizes: Sizes) -> int:
        total, left = sizes.keys(), sizes.count
        while left > sizes.kept:
            total += 2 * (left // 2) * (left - left // 2) * sizes.head_width
            left -= min(left - sizes.kept, left // 2)
        return total
