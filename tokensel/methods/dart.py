"""dart: drop what duplicates a few pivots."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import least_similar, rank
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Dart(Method):
    """Keep a few pivots and the tokens least similar to them: what matters is duplication, not importance.

    Pivots are the visual tokens with the largest keys.

    Source: Wen et al., Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More,
        EMNLP 2025, https://arxiv.org/abs/2502.11494.
    Parameters:
        pivots: the number of pivots.
    Our reading: only visual tokens are pivots. Keys are those of the layer that the tokens are about to enter, by their
        L2 norm over all heads. Similarity is the cosine of hidden states. Every pivot, in turn, takes the same number
        of tokens.
    """

    name: ClassVar[str] = "dart"
    min_kept: ClassVar[int] = 1

    pivots: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.pivots, int) or self.pivots < 1:
            raise TokenselError(f"pivots={self.pivots!r}: must be an integer from 1")

    def select(self, context: Context) -> Selection:
        norms = torch.linalg.vector_norm(context.keys.flatten(2).float(), dim=-1)
        return Selection(least_similar(context.tokens, rank(norms)[:, : self.pivots], context.kept))

    def flops(self, sizes: Sizes) -> int:
        return sizes.keys() + sizes.cosines(min(self.pivots, sizes.kept))
