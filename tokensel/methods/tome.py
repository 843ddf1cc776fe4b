"""tome: the medoid rule, centres of high degree in the cosine graph."""

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
    """Keep the tokens most similar to all others: centres of high degree, moved to their cluster's best member.

    The rule starts from the top-k by degree (sum of cosines), and without parallel rows that start is a fixed point:
    whatever has a higher degree than a centre is itself a centre, so the outcome *is* the top-k by degree and the
    iterations change nothing. Kept under its usual name; it is not the original ToMe, which merges pairs.

    Source: the simplified form of Bolya et al., Token Merging (ICLR 2023), found in published baselines.

    iterations: rounds of assigning and moving.
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
        return Selection(tome_centers(context.tokens, context.kept, self.iterations))

    def flops(self, sizes: Sizes) -> int:
        # On a CPU, which need not wait for the answer, iterations that could not move a centre are left out.
        moves = 0 if sizes.device == "cpu" else self.iterations * sizes.kept
        return sizes.cosines(2 + moves)
