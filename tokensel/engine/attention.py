"""Rows of a layer's attention, recomputed from its own projections: O(rows T d), without eager attention."""

from typing import Any

import torch
from torch import Tensor, nn

from tokensel.errors import TokenselError
from tokensel.functional import take

# Query rows per block; bounds the memory of [B, heads, rows, T].
ROW_BLOCK = 64


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of states [B, T, heads, d] by cos, sin [B, T, d], in the Llama convention (halves)."""
    first, second = states.chunk(2, -1)
    return states * cos.unsqueeze(2) + torch.cat([-second, first], -1) * sin.unsqueeze(2)


def _attention_of(layer: Any, needed: tuple[str, ...] = ("q_proj", "k_proj")) -> Any:
    attention: Any = getattr(layer, "self_attn", None)
    if attention is None or not all(hasattr(attention, name) for name in needed):
        raise TokenselError(f"{type(layer).__name__}: has no {' and '.join(needed)} to recompute attention from")
    return attention


def _normed(layer: Any, hidden: Tensor) -> Tensor:
    """What the layer's projections are given, in the weights' dtype: under autocast hidden states may have another."""
    return layer.input_layernorm(hidden.to(layer.input_layernorm.weight.dtype))


def sliding_window(layer: Any) -> int | None:
    """How many keys up to its own a query of this layer sees; None: all."""
    attention = _attention_of(layer, ())
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    config = getattr(attention, "config", None)
    return None if getattr(config, "layer_types", None) else getattr(config, "sliding_window", None)


def layer_keys(layer: Any, hidden: Tensor) -> Tensor:
    """`layer_projection` of "key" before rotary embedding: [B, T, key heads, d]."""
    return layer_projection(layer, "key", hidden)


def layer_projection(layer: Any, part: str, hidden: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The queries, keys or values that a Llama-like decoder layer makes of hidden states [B, n, D]: [B, n, heads, d].

    part: "query", "key" or "value". rotary: cos and sin [B, n, d] to rotate queries or keys by; None = not rotated.

    Raises TokenselError for a layer without that projection.
    """
    name = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}[part]
    attention = _attention_of(layer, (name,))
    states = getattr(attention, name)(_normed(layer, hidden)).unflatten(-1, (-1, attention.head_dim))
    norm = {"query": "q_norm", "key": "k_norm", "value": ""}[part]
    if hasattr(attention, norm):
        states = getattr(attention, norm)(states)
    return states if rotary is None or part == "value" else _rotate(states, *rotary)


def last_real(key_mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Index of each row's last real token: LongTensor[B, 1]. key_mask: BoolTensor[B, T], None = all real."""
    batch, length = hidden.shape[:2]
    last = torch.full((batch,), length - 1, device=hidden.device)
    if key_mask is not None:
        last = last - key_mask.to(hidden.device).flip(1).to(torch.uint8).argmax(1)
    return last.unsqueeze(1)


def picture_blocks(token_types: Tensor) -> Tensor:
    """The number of the picture that each token belongs to, -1 = none: LongTensor[B, T]. token_types: [B, T], 1 =
    visual; between two pictures there is text."""
    visual = token_types == 1
    begins = visual & ~nn.functional.pad(visual, (1, 0))[:, :-1]
    return torch.where(visual, begins.long().cumsum(1) - 1, -1)


def attention_to_visual(
    layer: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    key_mask: Tensor | None,
    visual_index: Tensor,
    queries: Tensor,
    weights: Tensor | None = None,
    blocks: Tensor | None = None,
) -> Tensor:
    """Attention probabilities that some tokens give to the visual ones in a Llama-like decoder layer, summed over them.

    hidden: [B, T, D] entering the layer. rotary: its cos and sin, [B or 1, T, d]. key_mask: BoolTensor[B, T], False
    = padding, None = none. visual_index: LongTensor[B, N]. queries: LongTensor[B, Q], the tokens whose rows are summed;
    weights: [B, Q] or [B, Q, N], the weight of each in the sum, None = 1. blocks: see `picture_blocks`; None =
    every token sees only itself and earlier ones. Returns [B, heads, N] in float32; each softmax runs over all that its
    query sees (earlier or of the same picture, unpadded, in its window). Grouped key heads are shared out over
    their queries.

    Raises TokenselError for a layer without separate q and k projections.
    """
    attention = _attention_of(layer)
    batch, length, _ = hidden.shape
    width = attention.head_dim
    cos, sin = (part.expand(batch, -1, -1) for part in rotary)
    key = _rotate(layer_keys(layer, hidden), cos, sin).permute(0, 2, 3, 1)  # [B, key heads, d, T]
    window = sliding_window(layer)
    total: Tensor | None = None
    for block in range(0, queries.shape[1], ROW_BLOCK):
        index = queries[:, block : block + ROW_BLOCK]
        query = attention.q_proj(_normed(layer, take(hidden, index))).unflatten(-1, (-1, width))
        if hasattr(attention, "q_norm"):
            query = attention.q_norm(query)
        query = _rotate(query, take(cos, index), take(sin, index))
        rows = query.shape[1]
        grouped = query.view(batch, rows, key.shape[1], -1, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
        scores = torch.matmul(grouped, key).float() * attention.scaling
        scores = scores.view(batch, key.shape[1], -1, rows, length)
        seen = torch.arange(length, device=hidden.device) <= index.unsqueeze(-1)
        if blocks is not None:
            own = blocks.gather(1, index).unsqueeze(-1)
            seen = seen | ((own == blocks.unsqueeze(1)) & (own >= 0))
        if window is not None:
            seen = seen & (torch.arange(length, device=hidden.device) > index.unsqueeze(-1) - window)
        if key_mask is not None:
            seen = seen & key_mask.unsqueeze(1)
        # Not -inf: a padded query sees nothing, and its weight of 0 could not mend a NaN.
        hidden_from = torch.finfo(scores.dtype).min
        probabilities = scores.masked_fill(~seen[:, None, None], hidden_from).softmax(-1).flatten(1, 2)
        places = visual_index[:, None, None].expand(-1, probabilities.shape[1], rows, -1)
        visual = probabilities.gather(3, places)
        if weights is not None:
            each = weights[:, None, block : block + ROW_BLOCK]
            visual = visual * (each if weights.ndim == 3 else each.unsqueeze(3))
        summed = visual.sum(2)
        total = summed if total is None else total + summed
    assert total is not None
    return total
