"""How relevant each visual token is to a text, and how well it covers text and picture."""

import torch
from torch import Tensor

from tokensel.functional.indexing import TIE
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
    cosine = sign * mean_cosine(tokens, texts, real)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    return (cosine - low + LEAST) / (high - low).clamp_min(LEAST)


@torch.no_grad()
def mean_cosine(tokens: Tensor, texts: Tensor, real: Tensor) -> Tensor:
    """The mean cosine of each token with the texts, 0 where no text is real: float32 [B, N]. O((N + S) D).

    tokens [B, N, D], texts [B, S, D], real BoolTensor[B, S]: which texts count.
    """
    texts, tokens = texts.float(), tokens.float()
    weights = inverse_norms(texts) * real / real.sum(1, keepdim=True).clamp_min(1)
    mean = (texts * weights.unsqueeze(2)).sum(1)
    return torch.bmm(tokens, mean.unsqueeze(2)).squeeze(2) * inverse_norms(tokens)


@torch.no_grad()
def scaled_scores(scores: Tensor) -> Tensor:
    """Scores of at least 0 scaled so that in each row the least is 0 and the largest 1: [B, N] -> float32 [B, N].

    All are 1 in a row whose scores tie: none is below the largest by more than 1e-5, relative to it.
    """
    scores = scores.float()
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    spread = high - low
    return torch.where(spread > TIE * high, (scores - low) / spread, 1.0)


@torch.no_grad()
def shared_affinity(
    tokens: Tensor,
    texts: Tensor,
    real: Tensor,
    features: Tensor,
    alpha: float = 0.5,
    text_temperature: float = 0.02,
    vision_temperature: float = 0.2,
) -> Tensor:
    """How well each visual token covers each text token and each visual token, for `greedy_coverage`.

    A text token's softmax over its cosines with all visual tokens, divided by temperature, says how much of it each
    covers; a visual token's likewise, by other features of the visual tokens. The texts together weigh 1, the visual
    tokens alpha. tokens [B, N, D], texts [B, S, D], real BoolTensor[B, S]: which texts count, features [B, N, D'] ->
    [B, N, S + N] in float32. O(N S D + N^2 D').

    Source: MMTok (arXiv 2508.18264) and its release.
    """
    tokens, texts, features = (_unit(each.float()) for each in (tokens, texts, features))
    by_text = (torch.bmm(tokens, texts.transpose(1, 2)) / text_temperature).softmax(1)
    by_token = (torch.bmm(features, features.transpose(1, 2)) / vision_temperature).softmax(1)
    shares = real.unsqueeze(1) / real.sum(1).clamp_min(1).view(-1, 1, 1)
    return torch.cat([by_text * shares, by_token * (alpha / tokens.shape[1])], 2)


def _unit(states: Tensor) -> Tensor:
    return states * inverse_norms(states).unsqueeze(-1)
