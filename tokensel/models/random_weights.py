"""LLaVA-1.5 in its real shapes with random weights: time, memory and FLOPs do not depend on the weights.

    model, processor = random_llava("llava_7b_random", dtype="bfloat16", device=torch.device("cuda"), ...)

The answers are meaningless. The tokenizer is the embedded model's; its prompts have about as many tokens as LLaVA's.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokensel.errors import TokenselError, check_choice
from tokensel.models.embedded import IMAGE_TOKEN, build_processor
from tokensel.models.meta import build_on_meta, restore_buffers

_TOKENIZER = Path(__file__).parent / "tiny"
_INITIALIZER_RANGE = 0.02
# The dtype of dtype=auto: the one that LLaVA-1.5 is stored in.
_STORED_DTYPE = torch.float16


@dataclass(frozen=True)
class LlavaShape:
    """The sizes of a decoder without grouped queries and of a CLIP tower (336 px, 14 px patches, 576 visual tokens)."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocab_size: int = 32064
    vision_hidden_size: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vision_intermediate_size: int = 4096
    vision_projection_size: int = 768


RANDOM_SHAPES: dict[str, LlavaShape] = {
    "llava_7b_random": LlavaShape(4096, 32, 32, 11008),
    "llava_13b_random": LlavaShape(5120, 40, 40, 13824),
    # Small enough for a CPU: a narrow tower, and the embedded model's vocabulary.
    "llava_1024_random": LlavaShape(
        1024,
        16,
        16,
        2752,
        vocab_size=576,
        vision_hidden_size=256,
        vision_layers=4,
        vision_heads=4,
        vision_intermediate_size=1024,
        vision_projection_size=256,
    ),
}


def random_llava(
    shape: str, *, dtype: str, device: torch.device, attn_implementation: str, seed: int = 0
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA of one of RANDOM_SHAPES with seeded random weights, in evaluation mode, and its processor.

    The weights are created on `device` in `dtype` (auto: float16), without a second copy. They depend only on shape,
    seed, dtype and kind of device.

    Raises TokenselError for an unknown shape, and, before any weight is created, if the device has too little free
    memory.
    """
    check_choice("model.path", shape, tuple(RANDOM_SHAPES))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(_TOKENIZER)
    model = build_on_meta(
        shape_config(RANDOM_SHAPES[shape], tokenizer),
        _STORED_DTYPE if dtype == "auto" else getattr(torch, dtype),
        attn_implementation,
    )
    check_memory(shape, model, device)
    model.to_empty(device=device)
    restore_buffers(model, device)
    _initialize(model, torch.Generator(device).manual_seed(seed))
    return model, build_processor(tokenizer)


def random_processor() -> LlavaProcessor:
    """The processor that `random_llava` gives, whatever the shape; creates no weights."""
    return build_processor(PreTrainedTokenizerFast.from_pretrained(_TOKENIZER))


def random_config(shape: str) -> LlavaConfig:
    """The configuration of one of RANDOM_SHAPES; creates no weights."""
    return shape_config(RANDOM_SHAPES[shape], PreTrainedTokenizerFast.from_pretrained(_TOKENIZER))


def shape_config(shape: LlavaShape, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The LLaVA-1.5 configuration of this shape, with the special tokens of `tokenizer`."""
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden_size,
        intermediate_size=shape.vision_intermediate_size,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        projection_dim=shape.vision_projection_size,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory available to a new model on the device, in bytes; None if the system does not report it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        available = [line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
        if available:
            return int(available[0].split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_memory(shape: str, model: Any, device: torch.device) -> None:
    """Raises TokenselError if the device has too little free memory for the model's weights."""
    needed = sum(parameter.nbytes for parameter in model.parameters())
    free = free_bytes(device)
    if free is not None and needed > free:
        raise TokenselError(
            f"model.path={shape}: its weights need {needed / 1e9:.1f} GB of memory in "
            f"{str(model.dtype).removeprefix('torch.')}, and {device} has {free / 1e9:.1f} GB free; choose a smaller "
            "shape, a shorter model.dtype or another model.device"
        )


def _initialize(model: Any, generator: torch.Generator) -> None:
    """Initialises weights as transformers does before a training: normal weights, zero biases, unit norm scales.

    Each layer then changes the hidden states only a little, so that they and the logits stay small in any dtype.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif parameter.ndim == 1 and not name.endswith("class_embedding"):
                parameter.fill_(1)
            else:
                parameter.normal_(0, _INITIALIZER_RANGE, generator=generator)
