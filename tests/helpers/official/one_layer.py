"""A decoder whose layers change nothing, one of them with the attention weights of a reference case."""

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

WIDTH, HEADS = 64, 4


class Unchanged(nn.Module):
    """In the place of a norm that a case's states have passed already."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, states: Tensor) -> Tensor:
        return states


def decoder_with(layer: int, weights: dict[str, Tensor], normed: bool = False) -> LlamaModel:
    """Three layers through which hidden states pass as they are; weights: of some projections of one of them.

    normed: the states have passed that layer's norm already.
    """
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 3}
    model = LlamaModel(LlamaConfig(vocab_size=8, rms_norm_eps=1e-5, rope_parameters=rope, **sizes)).eval()
    with torch.no_grad():
        for each in model.layers:
            each.self_attn.o_proj.weight.zero_()
            each.mlp.down_proj.weight.zero_()
        for name, weight in weights.items():
            getattr(model.layers[layer].self_attn, name).weight.copy_(weight)
    if normed:
        model.layers[layer].input_layernorm = Unchanged()
    return model
