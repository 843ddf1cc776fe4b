"""random: a seeded random subset, the control every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.functional import random_subset
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class RandomSubset(Method):
    """Keep a random subset in its original order. It depends on seed, the question's key and N only, never on the
    batch, so predictions don't change with batch size; a smaller kept is a subset of a larger one.

    seed: another seed, another subset.
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def select(self, context: Context) -> Selection:
        return Selection(random_subset(self.seed, context.row_keys, context.count, context.kept))

    def flops(self, sizes: Sizes) -> int:
        return 0
