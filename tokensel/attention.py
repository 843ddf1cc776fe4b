"""One row of a layer's attention, recomputed from its own projections: O(T d), without eager attention."""

from typing import Any

import torch
from torch import Tensor

from tokensel.errors import TokenselError


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of states [B, T, heads, d] by cos, sin [B, T, d], in the Llama convention (halves)."""
    first, second = states.chunk(2, -1)
    return states * cos.unsqueeze(2) + torch.cat([-second, first], -1) * sin.unsqueeze(2)


def last_query_attention(
    layer: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    key_mask: Tensor | None,
    visual_index: Tensor,
) -> Tensor:
    """Attention probabilities of the last real token over the visual tokens, in one Llama-like decoder layer.

    hidden: [B, T, D] entering the layer. rotary: its cos and sin, [B or 1, T, d]. key_mask: BoolTensor[B, T], False
    = padding, None = none. visual_index: LongTensor[B, N]. Returns [B, heads, N] in float32; the softmax runs over
    the whole prompt, so rows sum to at most 1. Grouped key heads are shared out over their queries.

    Raises TokenselError for a layer without separate q and k projections.
    """
    attention: Any = getattr(layer, "self_attn", None)
    if attention is None or not (hasattr(attention, "q_proj") and hasattr(attention, "k_proj")):
        raise TokenselError(f"fastv: {type(layer).__name__} has no q_proj and k_proj to recompute attention from")
    batch, length, _ = hidden.shape
    width = attention.head_dim
    normed = layer.input_layernorm(hidden)
    last = torch.full((batch,), length - 1, device=hidden.device)
    if key_mask is not None:
        last = last - key_mask.flip(1).to(torch.uint8).argmax(1)
    rows = torch.arange(batch, device=hidden.device)
    query = attention.q_proj(normed[rows, last]).view(batch, 1, -1, width)
    key = attention.k_proj(normed).view(batch, length, -1, width)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    cos, sin = (part.expand(batch, -1, -1) for part in rotary)
    key = _rotate(key, cos, sin)
    query = _rotate(query, cos[rows, last].unsqueeze(1), sin[rows, last].unsqueeze(1))
    groups = query.view(batch, key.shape[2], -1, width)
    scores = torch.matmul(groups, key.permute(0, 2, 3, 1)).float() * attention.scaling
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    probabilities = scores.softmax(-1).flatten(1, 2)
    return probabilities.gather(2, visual_index.unsqueeze(1).expand(-1, probabilities.shape[1], -1))
