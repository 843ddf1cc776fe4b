"""Models on torch's meta device, which hold no memory until their weights are created or read in place."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText


def build_on_meta(config: Any, dtype: torch.dtype, attn_implementation: str) -> Any:
    """A model in evaluation mode whose parameters and buffers have shapes but no values.

    Raises ValueError for an attention implementation that transformers does not know.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    return model.requires_grad_(False).eval()


def restore_buffers(model: Any, device: torch.device) -> None:
    """Computes the buffers that no checkpoint stores (rotary frequencies, position ids) on `device`."""
    for module in model.modules():
        names = list(module._buffers)
        if not names:
            continue
        with torch.random.fork_rng(devices=[]):
            fresh = type(module)(module.config)
        for name in names:
            setattr(module, name, getattr(fresh, name).to(device))
