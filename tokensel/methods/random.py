"""random: a random subset, the control that every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensel.functional import row_scores
from tokensel.methods.base import ScoringMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class RandomSubset(ScoringMethod):
    """Keep a random subset, in the order of the picture.

    It depends only on seed, the question's key and N, not on the batch. The subset of a smaller kept is contained in
    that of a larger one.

    Source: none, a control.
    Parameters:
        seed: the seed of the choice.
    """

    name: ClassVar[str] = "random"
    default_coverage: ClassVar[float | None] = 0.0275

    seed: int = 0

    def score(self, context: Context) -> Tensor:
        # The smallest random numbers stay: the choice of `random_subset`.
        return -row_scores(self.seed, context.row_keys, context.count)

    def masses(self, context: Context, scores: Tensor) -> Tensor:
        return scores.new_ones(scores.shape)  # coverage is the share of the tokens

    def flops(self, sizes: Sizes) -> int:
        return 0
