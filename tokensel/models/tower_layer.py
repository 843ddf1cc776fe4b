"""One layer of a CLIP-like vision tower, computed from its parts: for methods that need what goes on inside it."""

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def project_heads(layer: Any, projection: str, states: Tensor) -> Tensor:
    """Queries, keys or values ("q_proj", "k_proj", "v_proj") of normed states [B, T, D]: [B, T, heads, d]."""
    attention = layer.self_attn
    return getattr(attention, projection)(states).unflatten(-1, (attention.num_heads, -1))


def run_layer(layer: Any, states: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The layer's output [B, T, D], and its queries, keys and values [B, T, heads, d].

    states: [B, T, D]. seen: BoolTensor[B, T], the tokens that are attended to; None = all. Hooks on the layer itself do
    not run.
    """
    normed = layer.layer_norm1(states)
    query, key, value = (project_heads(layer, name, normed) for name in ("q_proj", "k_proj", "v_proj"))
    mask = None if seen is None else seen[:, None, None]
    mixed = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask)
    states = states + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return states + layer.mlp(layer.layer_norm2(states)), query, key, value
