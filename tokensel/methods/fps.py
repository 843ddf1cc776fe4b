"""fps: farthest point sampling over the visual tokens' hidden states."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import farthest_coverage, farthest_point_sampling, row_scores
from tokensel.methods.base import OrderingMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class FarthestPoint(OrderingMethod):
    """Cover the picture: each choice is the token farthest (1 - cosine) from all earlier choices.

    Survivors gather the other tokens by cross-attention. At a later stage each distance is multiplied by the number of
    tokens that the token stands for.

    Source: farthest point sampling, Gonzalez 1985, Eldar et al. 1997, https://doi.org/10.1109/83.623193; here over
        hidden states inside the decoder.
    Parameters:
        start: the first choice. "medoid" = the token nearest to all others; "peripheral" = the token farthest from its
            nearest neighbour; an int = that token; None = random, from seed and the question's key.
        seed: used with start=None.
    """

    name: ClassVar[str] = "fps"
    default_coverage: ClassVar[float | None] = 0.82
    default_aggregation: ClassVar[str] = "cross_attention"
    default_position: ClassVar[str] = "front"
    min_kept: ClassVar[int] = 1

    start: int | str | None = "medoid"
    seed: int = 0

    def __post_init__(self) -> None:
        is_index = isinstance(self.start, int) and not isinstance(self.start, bool) and self.start >= 0
        if self.start not in ("medoid", "peripheral", None) and not is_index:
            raise TokenselError(f"start={self.start!r}: must be 'medoid', 'peripheral', None or an index from 0")

    def order(self, context: Context) -> Tensor:
        drawn = None
        if self.start is None:
            drawn = row_scores(self.seed, context.row_keys, 1)[:, 0] % context.count
        start = self.start if drawn is None else drawn
        return farthest_point_sampling(context.tokens, context.kept, start, weights=self.weights(context))

    def weights(self, context: Context) -> Tensor | None:
        """By which each token's distance is multiplied: [B, N]; None = equal weights."""
        return context.weights

    def coverage(self, context: Context, order: Tensor) -> Tensor:
        return farthest_coverage(context.tokens, order, self.weights(context))

    def flops(self, sizes: Sizes) -> int:
        start = {"medoid": 2, "peripheral": sizes.count}.get(str(self.start), 0)
        return sizes.cosines(start + sizes.kept - 1)

    def draws(self, layer: int) -> bool:
        return self.start is None
