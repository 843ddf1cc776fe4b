"""Decoders with the weights of reference cases."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from helpers.official import Case

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
)


def decoder_of(case: Case) -> LlamaModel:
    """The Llama decoder whose weights and sizes the case names."""
    sizes = {name: case.settings[name] for name in SIZES}
    rope = {"rope_type": "default", "rope_theta": case.settings["rope_theta"]}
    model = LlamaModel(LlamaConfig(vocab_size=8, rope_parameters=rope, **sizes)).eval()
    missing, unexpected = model.load_state_dict(case.weights(case.settings["weights"]), strict=False)
    assert missing == ["embed_tokens.weight"], missing
    assert not unexpected, unexpected
    return model


def image_mask_of(case: Case) -> Tensor:
    """Where the visual tokens of the case's prompt are: BoolTensor[1, T]."""
    start, count = case.settings["start"], case.settings["N"]
    mask = torch.zeros(case["embeds"].shape[:2], dtype=torch.bool)
    mask[:, start : start + count] = True
    return mask
