"""Checkpoints with exactly their published settings, but few layers and narrow ones, and random weights."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from tokensel.models import LoadedModel
from tokensel.models.families import FAMILIES
from tokensel.models.published import NAMES, published, write_settings
from tokensel.models.random_published import build_random
from tokensel.models.random_published import described as described_anywhere

PUBLISHED = [name for name in NAMES if published(name)["config"]["model_type"] in FAMILIES]
# One of each model type, for what takes long.
OF_EACH_TYPE = list({published(name)["config"]["model_type"]: name for name in reversed(PUBLISHED)}.values())
CPU = torch.device("cpu")
DEPTH = 3
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_window_layers": DEPTH,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "query_pre_attn_scalar": 8,
    "initializer_range": 0.2,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "depth": 2,
    "num_attention_heads": 2,
    "num_heads": 2,
    "projection_dim": 16,
    "out_hidden_size": 32,
    "deepstack_visual_indexes": [0, 1],
    "fullatt_block_indexes": [1],
}


def narrowed(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with the same keys, of a model with three decoder layers of width 32."""
    text = config.get("text_config", config)
    # Llama's sizes are its class's defaults, which files leave out.
    always = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "initializer_range")
    small = {key: value for key, value in _TEXT.items() if key in text or key in always}
    if "num_key_value_heads" in text:
        small["num_key_value_heads"] = 2 if text["num_key_value_heads"] != text["num_attention_heads"] else 4
    if "sliding_window_pattern" in text or text.get("model_type") == "gemma3_text":
        small["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    if "mrope_section" in text.get("rope_scaling", {}):
        section = [2, 1, 1] if text["rope_scaling"].get("mrope_interleaved") else [1, 1, 2]
        small["rope_scaling"] = text["rope_scaling"] | {"mrope_section": section}
    vision = config["vision_config"]
    tower = vision | {key: value for key, value in _TOWER.items() if key in vision}
    if text is config:
        return config | small | {"vision_config": tower}
    return config | {"text_config": text | small, "vision_config": tower}


def described(name: str) -> tuple[Any, Any]:
    """Configuration and processor; skips the test where this transformers wants torchvision for PIL's pictures."""
    model_type = published(name)["config"]["model_type"]
    kinds = IMAGE_PROCESSOR_MAPPING_NAMES.get(FAMILIES[model_type].processor_type or model_type, {})
    if "pil" in kinds and getattr(get_image_processor_class_from_name(kinds["pil"]), "is_dummy", False):
        pytest.skip(f"this transformers wants torchvision for {model_type}'s PIL image processor")
    return described_anywhere(name)


@cache
def narrow(name: str) -> LoadedModel:
    """The narrow model in memory; one for all tests, which leave it as it was."""
    with tempfile.TemporaryDirectory() as folder:
        write_settings(name, Path(folder), narrowed(published(name)["config"]))
        config = AutoConfig.from_pretrained(folder)
    model = build_random(name, config, torch.float32, CPU, "sdpa")
    return LoadedModel(model, described(name)[1], name, name, CPU)


def save_narrow(name: str, folder: Path) -> Path:
    """The narrow checkpoint as a folder, with its config.json as it is published."""
    narrow(name).model.save_pretrained(folder)
    return write_settings(name, folder, narrowed(published(name)["config"]))
