"""One layer of a vision tower, computed from its parts: for methods that need what goes on inside it.

Knows three kinds of layer: those of CLIP, SigLIP and Idefics3 (layer_norm1, self_attn.q_proj, ...), those of Qwen2-VL
and Qwen2.5-VL (norm1, attn.qkv), and those of InternVL (layernorm_before, attention.q_proj, q_norm, ...).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

# Query rows per block; bounds the memory of [B, heads, rows, T].
ROW_BLOCK = 256


# What a tower's layers call their attention, and the norm before it.
_ATTENTIONS = ("self_attn", "attn", "attention")
_NORMS = ("layer_norm1", "norm1", "layernorm_before")


def tower_attention(layer: Any) -> Any:
    """The attention of a tower's layer; None if it has none of a known kind."""
    return next((getattr(layer, name) for name in _ATTENTIONS if hasattr(layer, name)), None)


def project_heads(layer: Any, projection: str, states: Tensor) -> Tensor:
    """Queries, keys or values ("q_proj", "k_proj", "v_proj") of normed states [B, T, D]: [B, T, heads, d]."""
    attention = tower_attention(layer)
    if hasattr(attention, projection):
        states = getattr(attention, projection)(states)
        norm = {"q_proj": "q_norm", "k_proj": "k_norm"}.get(projection, "")
        states = getattr(attention, norm)(states) if hasattr(attention, norm) else states
    elif attention.qkv.weight.device.type == "meta":  # accelerate fetches them where the module itself is called
        states = attention.qkv(states).chunk(3, -1)[("q_proj", "k_proj", "v_proj").index(projection)]
    else:
        part = ("q_proj", "k_proj", "v_proj").index(projection)
        weight, bias = (each.chunk(3)[part] for each in (attention.qkv.weight, attention.qkv.bias))
        states = linear(states, weight, bias)
    return states.unflatten(-1, (attention.num_heads, -1))


def first_norm(layer: Any, states: Tensor) -> Tensor:
    """What the layer's attention is given: [B, T, D] -> [B, T, D]."""
    return next(getattr(layer, name) for name in _NORMS if hasattr(layer, name))(states)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of states [B, T, heads, d] by cos, sin [B, T, d], in float32."""
    first, second = states.float().chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    return (states.float() * cos.float().unsqueeze(2) + turned * sin.float().unsqueeze(2)).to(states.dtype)


def received_attention(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """The attention that each token receives, averaged over all queries: [B, heads, T] in float32.

    query, key: [B, T, heads, d]. mask: [B, 1, T, T] or [B, 1, 1, T], True = seen, or what is added to the logits;
    None = all are seen. O(T^2 D), in blocks of queries.
    """
    count = query.shape[1]
    across = key.permute(0, 2, 3, 1)
    total = torch.zeros(across.shape[0], across.shape[1], count, device=key.device)
    for begin in range(0, count, ROW_BLOCK):
        rows = query[:, begin : begin + ROW_BLOCK].transpose(1, 2)
        logits = torch.matmul(rows, across).float() * query.shape[-1] ** -0.5
        if mask is not None:
            seen = mask if mask.shape[2] == 1 else mask[:, :, begin : begin + ROW_BLOCK]
            if seen.dtype == torch.bool:
                logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
            else:
                logits = logits + seen
        total += logits.softmax(-1).sum(2)
    return total / count


def run_layer(layer: Any, states: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output [B, T, D] of a CLIP-like layer, and its queries, keys and values [B, T, heads, d].

    states: [B, T, D]. seen: BoolTensor[B, T], the tokens that are attended to; None = all. Hooks on the layer itself do
    not run.
    """
    normed = layer.layer_norm1(states)
    query, key, value = (project_heads(layer, name, normed) for name in ("q_proj", "k_proj", "v_proj"))
    mask = None if seen is None else seen[:, None, None]
    mixed = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask)
    states = states + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return states + layer.mlp(layer.layer_norm2(states)), query, key, value
