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
    """Merge similar tokens into their size-weighted mean until `kept` remain (bipartite soft matching).

    Each even token is paired with the most similar odd token, and the most similar pairs merge, at most half of the
    tokens per round. Similarity is the cosine of keys, averaged over heads.

    Source: Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, https://arxiv.org/abs/2210.09461, and its
        release.
    Parameters:
        proportional: add log(size) to the attention logits in later layers, the paper's proportional attention.
    Our reading: the paper merges between the blocks of a vision transformer. Here only the decoder's visual tokens
        merge, by the keys of the layer that they are about to enter, before rotary embedding; merged keys are
        size-weighted means too. A merged token has the position of its destination, because causal attention depends
        on the order of the tokens.
    """

    name: ClassVar[str] = "tome_merge"
    returns_values: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    proportional: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.proportional, bool):
            raise TokenselError(f"proportional={self.proportional!r}: must be true or false")

    def select(self, context: Context) -> Selection:
        keys, kept = context.keys.mean(2), context.kept
        positions, values, sizes = soft_merge(keys, context.tokens, kept)
        weights = sizes if self.proportional else None
        return Selection(positions, values, weights, merge=lambda along: soft_merge(keys, along, kept)[1])

    def flops(self, sizes: Sizes) -> int:
        total, left = sizes.keys(), sizes.count
        while left > sizes.kept:
            total += 2 * (left // 2) * (left - left // 2) * sizes.head_width
            left -= min(left - sizes.kept, left // 2)
        return total
