"""fastv: keep the visual tokens that the last token attended to in the layer before."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import first_of_best, random_subset
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class FastV(Method):
    """Rank visual tokens by the attention of layer agg_layer - 1, last query's row; survivors keep their order.

    Source: Chen et al., An Image is Worth 1/2 Tokens After Layer 2 (ECCV 2024), token drop in place. At agg_layer 0
    there is no layer before, and a random subset stays, as in the original.

    heads: "mean" over heads; "max_head" = the head with the largest sum over the image, the lowest
        of those within 1e-5 of it; "weighted" =
        alpha * that head + (1 - alpha) * mean of the others. alpha: its weight, 0 to 1. seed: for agg_layer 0.
    """

    name: ClassVar[str] = "fastv"
    uses_attention: ClassVar[bool] = True

    heads: str = "mean"
    alpha: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heads not in ("mean", "max_head", "weighted"):
            raise TokenselError(f"heads={self.heads!r}: choose from mean, max_head, weighted")
        if not 0 <= self.alpha <= 1:
            raise TokenselError(f"alpha={self.alpha!r}: must be from 0 to 1")

    def select(self, context: Context) -> Selection:
        attention = context.last_query_attention
        if attention is None:
            return Selection(random_subset(self.seed, context.row_keys, context.count, context.kept))
        best = self.score(attention).sort(dim=1, descending=True, stable=True).indices
        return Selection(best[:, : context.kept].sort(dim=1).values)

    def flops(self, sizes: Sizes) -> int:
        return sizes.attention()

    def draws(self, layer: int) -> bool:
        return layer == 0

    def score(self, attention: Tensor) -> Tensor:
        """attention: [B, heads, N] -> one score per visual token [B, N]."""
        if self.heads == "mean":
            return attention.mean(1)
        # Several heads may give all their attention to the picture, and sum to 1 but for the last bit.
        leader = first_of_best(attention.sum(2)).unsqueeze(2).expand(-1, 1, attention.shape[2])
        strongest = attention.gather(1, leader).squeeze(1)
        if self.heads == "max_head":
            return strongest
        others = (attention.sum(1) - strongest) / max(attention.shape[1] - 1, 1)
        return self.alpha * strongest + (1 - self.alpha) * others
