"""A LLaVA without memory: built on torch's meta device, so that its weights are made or read in place, once."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, LlavaConfig


def build_on_meta(config: LlavaConfig, dtype: torch.dtype, attn_implementation: str) -> Any:
    """A LlavaForConditionalGeneration in evaluation mode whose parameters and buffers have shapes but no values.

    Raises ValueError for an attention that transformers does not know.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    return model.requires_grad_(False).eval()


def restore_buffers(model: Any, device: torch.device) -> None:
    """Gives rotary frequencies and position ids, which no checkpoint holds, their values on `device`."""
    for module in model.modules():
        names = list(module._buffers)
        if not names:
            continue
        with torch.random.fork_rng(devices=[]):
            fresh = type(module)(module.config)
        for name in names:
            setattr(module, name, getattr(fresh, name).to(device))
