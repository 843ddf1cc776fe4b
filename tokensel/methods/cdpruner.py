"""cdpruner: diverse tokens that are relevant to the instruction."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.functional import dpp_greedy, inverse_norms
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class CDPruner(Method):
    """Keep tokens that are diverse and relevant to the instruction, by a determinantal point process (DPP).

    The DPP's kernel is the cosine similarity of the visual tokens, multiplied on both sides by their relevance to the
    instruction; a greedy search for its most probable subset runs before the first layer.

    Source: Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs,
        NeurIPS 2025, https://arxiv.org/abs/2506.10967.
    Parameters: none.
    Our reading: the paper takes relevance from CLIP's text encoder, which a LLaVA checkpoint does not contain. Here it
        is the mean cosine of a visual token with the instruction's embeddings, scaled to 0 .. 1 over the picture.
        Survivors are in the order of the picture.
    """

    name: ClassVar[str] = "cdpruner"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    default_position: ClassVar[str] = "renumber"
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        chosen = dpp_greedy(context.tokens, self.relevance(context), context.kept)
        return Selection(chosen.sort(dim=1).values)

    @staticmethod
    def relevance(context: Context) -> torch.Tensor:
        """The relevance of each visual token to the instruction, from about 0 to 1: [B, N]."""
        text, tokens = context.text.float(), context.tokens.float()
        unit = text * (inverse_norms(text) * context.text_mask).unsqueeze(-1)
        cosine = (tokens @ unit.sum(1).unsqueeze(-1)).squeeze(-1) * inverse_norms(tokens)
        low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
        return (cosine - low + 1e-6) / (high - low + 1e-6)

    def flops(self, sizes: Sizes) -> int:
        return sizes.cosines(1 + sizes.kept) + sizes.count * sizes.kept * (sizes.kept - 1)
