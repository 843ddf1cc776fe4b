"""tome: the medoid rule, the tokens most similar to all others."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.errors import TokenselError
from tokensel.functional import tome_centers
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class MedoidToMe(Method):
    """Keep the tokens most similar to all others, that is, with the largest sum of cosines (their degree).

    The tokens of highest degree are cluster centres; each iteration assigns every token to its most similar centre and
    moves each centre to the member of its cluster with the highest degree. Without parallel tokens the iterations
    change nothing, because a token of higher degree than a centre is itself a centre. Survivors gather the other tokens
    by cross-attention. "tome_merge" is the original ToMe, which merges pairs. At a later stage a cosine counts as often
    as the number of tokens that its neighbour stands for.

    Source: a simplified form, found in published baselines, of Bolya et al., Token Merging: Your ViT But Faster,
        ICLR 2023, https://arxiv.org/abs/2210.09461.
    Parameters:
        iterations: the number of iterations.
    """

    name: ClassVar[str] = "tome"
    default_aggregation: ClassVar[str] = "cross_attention"
    default_position: ClassVar[str] = "front"
    min_kept: ClassVar[int] = 1

    iterations: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 0:
            raise TokenselError(f"iterations={self.iterations!r}: must be an integer from 0")

    def select(self, context: Context) -> Selection:
        return Selection(tome_centers(context.tokens, context.kept, self.iterations, context.weights))

    def flops(self, sizes: Sizes) -> int:
        # On a CPU, iterations that cannot move a centre are skipped; on a GPU the test would cost a synchronisation.
        moves = 0 if sizes.device == "cpu" else self.iterations * sizes.kept
        return sizes.cosines(2 + moves)
