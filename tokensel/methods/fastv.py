"""fastv: rank by the last token's attention in the previous layer."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import first_of_best, row_scores
from tokensel.methods.base import ScoringMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class FastV(ScoringMethod):
    """Keep the visual tokens that the prompt's last token attends to most in layer agg_layer - 1.

    Source: Chen et al., An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
        Vision-Language Models, ECCV 2024, https://arxiv.org/abs/2403.06764.
    Parameters:
        heads: "mean" = the mean over heads; "max_head" = the head with the largest sum of attention to the picture (the
            lowest of the heads within 1e-5 of it); "weighted" = alpha * that head + (1 - alpha) * mean of the others.
        alpha: from 0 to 1, for heads="weighted".
        seed: for agg_layer=0, which has no previous layer: a random subset is kept, as in the original code.
    """

    name: ClassVar[str] = "fastv"
    default_coverage: ClassVar[float | None] = 0.98
    uses_attention: ClassVar[bool] = True

    heads: str = "mean"
    alpha: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heads not in ("mean", "max_head", "weighted"):
            raise TokenselError(f"heads={self.heads!r}: choose from mean, max_head, weighted")
        if not 0 <= self.alpha <= 1:
            raise TokenselError(f"alpha={self.alpha!r}: must be from 0 to 1")

    def score(self, context: Context) -> Tensor:
        attention = context.last_query_attention
        if attention is None:
            return -row_scores(self.seed, context.row_keys, context.count)
        return self.over_heads(attention)

    def masses(self, context: Context, scores: Tensor) -> Tensor:
        return super().masses(context, scores) if context.layer else scores.new_ones(scores.shape)

    def flops(self, sizes: Sizes) -> int:
        return sizes.attention()

    def draws(self, layer: int) -> bool:
        return layer == 0

    def over_heads(self, attention: Tensor) -> Tensor:
        """Combines the heads: attention [B, heads, N] -> [B, N]."""
        if self.heads == "mean":
            return attention.mean(1)
        # If several heads attend to the picture alone, each sums to 1 up to rounding, which must not decide.
        leader = first_of_best(attention.sum(2)).unsqueeze(2).expand(-1, 1, attention.shape[2])
        strongest = attention.gather(1, leader).squeeze(1)
        if self.heads == "max_head":
            return strongest
        others = (attention.sum(1) - strongest) / max(attention.shape[1] - 1, 1)
        return self.alpha * strongest + (1 - self.alpha) * others
