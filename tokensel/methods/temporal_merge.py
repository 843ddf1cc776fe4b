"""temporal_merge: what stays the same from frame to frame becomes one token; a baseline for videos."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.functional import merge_over_time
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class TemporalMerge(Method):
    """Merge tokens at equal places of consecutive frames, most similar pairs first, until `kept` remain.

    Similarity is the cosine of hidden states. Tokens that are merged along several frames become their mean, at the
    position of the first. If one token for each place is still too many, these are merged further by ToMe's bipartite
    soft matching; a picture is one frame, and merged in this way alone.

    Source: none, a baseline: the merging of ToMe (https://arxiv.org/abs/2210.09461), along time.
    Parameters: none.
    """

    name: ClassVar[str] = "temporal_merge"
    returns_values: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        tokens = context.tokens
        merge = merge_over_time(tokens, context.frames, context.kept)

        def apply(features: Tensor) -> Tensor:
            return merge(features)[0]

        return Selection(merge.positions, apply(tokens), merge=apply)

    def flops(self, sizes: Sizes) -> int:
        places = sizes.count // sizes.frames
        total, left = 0, min(sizes.count, max(sizes.kept, places))
        while left > sizes.kept:
            total += 2 * (left // 2) * (left - left // 2) * sizes.hidden
            left -= min(left - sizes.kept, left // 2)
        return total
