"""dart: drop duplicates of a few pivots, never mind importance."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import least_similar
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Dart(Method):
    """Keep the tokens least similar to a few pivots, and the pivots: duplication matters, not importance.

    Pivots are the visual tokens with the largest keys. Source: Wen et al., Stop Looking for Important Tokens in
    Multimodal Language Models: Duplication Matters More (EMNLP 2025). Our reading: visual pivots only; L2 norm of the
    keys of the layer about to come, over all heads; cosine of hidden states; pivots take turns, equally many each.

    pivots: how many.
    """

    name: ClassVar[str] = "dart"
    min_kept: ClassVar[int] = 1

    pivots: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.pivots, int) or self.pivots < 1:
            raise TokenselError(f"pivots={self.pivots!r}: must be an integer from 1")

    def select(self, context: Context) -> Selection:
        norms = torch.linalg.vector_norm(context.keys.flatten(2).float(), dim=-1)
        largest = norms.sort(dim=1, descending=True, stable=True).indices[:, : self.pivots]
        return Selection(least_similar(context.tokens, largest, context.kept))

    def flops(self, sizes: Sizes) -> int:
        return sizes.keys() + sizes.cosines(min(self.pivots, sizes.kept))
