"""How relevant each visual token is to a text."""

import torch
from torch import Tensor

from tokensel.functional.similarity import inverse_norms

# Keeps the least relevant token's relevance above 0.
LEAST = 1e-6


@torch.no_grad()
def text_relevance(tokens: Tensor, texts: Tensor, real: Tensor, sign: int = 1) -> Tensor:
    """The mean cosine of each token with the texts, scaled to about 0 .. 1 over the picture.

    tokens [B, N, D], texts [B, S, D], real BoolTensor[B, S]: which texts count -> [B, N] in float32. sign: 1, or -1 for
    the opposite order. Where all tokens are equally relevant, or no text is real, all values are equal. O((N + S) D).

    Source: CDPruner (arXiv 2506.10967) and its release.
    """
    texts, tokens = texts.float(), tokens.float()
    weights = inverse_norms(texts) * real / real.sum(1, keepdim=True).clamp_min(1)
    mean = (texts * weights.unsqueeze(2)).sum(1)
    cosine = sign * torch.bmm(tokens, mean.unsqueeze(2)).squeeze(2) * inverse_norms(tokens)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    return (cosine - low + LEAST) / (high - low).clamp_min(LEAST)
