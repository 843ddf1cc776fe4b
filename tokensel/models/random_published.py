"""Checkpoints of all families in their published shapes, with random weights: for times, memory and FLOPs.

    model, processor = random_model("qwen2_5_vl_7b", dtype="bfloat16", device=torch.device("cuda"), ...)

Configuration, processor, special tokens and chat template are the published ones; the vocabulary is a stand-in's.
"""

import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from tokensel.models.meta import build_on_meta
from tokensel.models.processors import load_processor
from tokensel.models.published import NAMES, published, write_settings
from tokensel.models.random_weights import (
    RANDOM_SHAPES,
    check_memory,
    random_config,
    random_llava,
    random_processor,
)


def random_names() -> tuple[str, ...]:
    """What may stand behind "random:" in a model's path."""
    shapes = [name.removesuffix("_random") for name in RANDOM_SHAPES]
    return (*shapes, *(name for name in NAMES if name not in shapes))


def random_model(name: str, *, dtype: str, device: torch.device, attn_implementation: str) -> tuple[Any, Any]:
    """The model with seeded random weights, in evaluation mode, and its processor. dtype: auto = as it is stored.

    Raises TokenselError if the device has too little free memory, before any weight is created.
    """
    if f"{name}_random" in RANDOM_SHAPES:
        return random_llava(f"{name}_random", dtype=dtype, device=device, attn_implementation=attn_implementation)
    config = described_config(name)
    stored = published(name)["config"]["dtype"] if dtype == "auto" else dtype
    return build_random(name, config, getattr(torch, stored), device, attn_implementation), described(name)[1]


def build_random(name: str, config: Any, dtype: torch.dtype, device: torch.device, attn_implementation: str) -> Any:
    """A model of this configuration, initialised as transformers does before a training, without a second copy.

    The weights depend only on config, dtype and kind of device.
    """
    model = build_on_meta(config, dtype, attn_implementation)
    check_memory(name, model, device)
    model.to_empty(device=device)
    model.tie_weights()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.initialize_weights()
    return model


def described_config(name: str) -> Any:
    """The configuration of "random:NAME"; creates no weights."""
    return random_config(f"{name}_random") if f"{name}_random" in RANDOM_SHAPES else deepcopy(described(name)[0])


def described_processor(name: str) -> Any:
    """The processor of "random:NAME"; creates no weights."""
    return random_processor() if f"{name}_random" in RANDOM_SHAPES else described(name)[1]


@cache
def described(name: str) -> tuple[Any, Any]:
    """Configuration and processor of a published checkpoint, read as those of a folder are."""
    with tempfile.TemporaryDirectory() as folder:
        write_settings(name, Path(folder))
        config = AutoConfig.from_pretrained(folder)
        return config, load_processor(folder, f"random:{name}", config, {})
