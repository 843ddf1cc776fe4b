"""dart: drop what duplicates a few pivots."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokensel.errors import TokenselError
from tokensel.functional import least_similar, rank, set_order, take
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Dart(Method):
    """Keep a few pivots and the tokens least similar to them: what matters is duplication, not importance.

    Pivots are the visual and the text tokens with the largest keys in the previous layer, by the L1 norm over all heads
    after rotary embedding; at agg_layer=0 the keys are those of layer 0. Each pivot in turn keeps the same number of
    visual tokens: those least similar to it, by the cosine of final-normed states, that are not kept yet. Pivots are
    visited in the order in which a Python set holds their places in the prompt, as in the release.

    Source: Wen et al., Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More,
        EMNLP 2025, https://arxiv.org/abs/2502.11494.
    Parameters:
        pivots: the number of visual pivots, which are kept.
        text_pivots: the number of pivots among the instruction's tokens.
        exact: keep exactly `kept` tokens. The release does not: it keeps the visual pivots and, for each pivot,
            kept // (pivots + text_pivots) tokens, so that "128" are 4 + 8 * 16 = 132.
    """

    name: ClassVar[str] = "dart"
    min_kept: ClassVar[int] = 1
    uses_attention: ClassVar[bool] = True

    pivots: int = 4
    text_pivots: int = 4
    exact: bool = False

    def __post_init__(self) -> None:
        for name, least in (("pivots", 1), ("text_pivots", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TokenselError(f"{name}={value!r}: must be an integer from {least}")

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int:
        visited = self.pivots + self.text_pivots
        return kept if self.exact else min(count, self.pivots + visited * (kept // visited))

    def select(self, context: Context) -> Selection:
        pivots = rank(_key_norms(context, "visual"))[:, : self.pivots]
        mask = context.text_mask
        # Where the instruction has too few tokens, the first visual pivot is visited again.
        norms = _key_norms(context, "text").masked_fill(~mask, -torch.inf)
        words = rank(pad(norms, (0, self.text_pivots), value=-1.0))[:, : self.text_pivots]
        text = torch.cat([context.text, take(context.tokens, pivots[:, :1]).expand(-1, self.text_pivots, -1)], 1)
        start = context.before_picture.sum(1, keepdim=True)
        behind = pad(mask, (0, self.text_pivots), value=True).cumsum(1) - 1
        places = torch.cat([start + pivots, start + context.count + behind.gather(1, words)], 1)
        visited = torch.cat([take(context.tokens, pivots), take(text, words)], 1)
        queries = context.final_norm(take(visited, set_order(places)))
        states, kept = context.final_norm(context.tokens), self.remaining(context.kept, context.count)
        return Selection(least_similar(states, pivots, kept, queries))

    def flops(self, sizes: Sizes) -> int:
        return sizes.prompt_keys() + sizes.cosines(min(self.pivots, sizes.count) + self.text_pivots)


def _key_norms(context: Context, tokens: str) -> Tensor:
    """The L1 norms of the rotated keys of the "visual" tokens or of the "text": [B, n]."""
    layer = "previous" if context.layer else "next"
    keys = context.project("key", tokens, layer, rotary=True)
    assert keys is not None
    return keys.float().abs().sum((2, 3))
