"""Tiny random checkpoints of InternVL and Gemma 3, with their processors."""

import torch
import transformers
from transformers import PreTrainedTokenizerFast, SiglipVisionConfig
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from helpers.family_parts import SIDE, template, text_settings, tower_settings
from tokensel.models.processors import processor_class


def with_names(tokenizer, **named):
    """The tokenizer with special tokens that a processor asks it for by name."""
    kept = {name: getattr(tokenizer, name) for name in ("pad_token", "bos_token", "eos_token", "padding_side")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, extra_special_tokens=named, **kept)


@torch.no_grad()
def stirred(model):
    """The model with random numbers where it begins with equal ones: as norms, layer scales and some projectors do."""
    for weight in model.parameters():
        if weight.min() == weight.max():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


def internvl(family: str, tokenizer):
    ends = {"start_image_token": "<img>", "end_image_token": "</img>"}
    tokenizer = with_names(tokenizer, context_image_token="<IMG_CONTEXT>", video_token="<video>", **ends)
    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"image_size": (SIDE, SIDE), "patch_size": (14, 14), "use_qk_norm": True, "initializer_range": 0.5}
    config = transformers.InternVLConfig(
        vision_config=tower,
        text_config={"model_type": "qwen3", "head_dim": 8} | text_settings(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    processor = processor_class(family)(
        GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=4),
        tokenizer,
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>"),
    )
    return stirred(transformers.InternVLForConditionalGeneration(config)), processor


def gemma3(family: str, tokenizer):
    ends = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = with_names(tokenizer, image_token="<image_soft_token>", **ends)
    layers = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    text = text_settings(tokenizer) | {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": layers,
        "sliding_window": 12,
    }
    rotary = {
        kind: {"rope_type": "default", "rope_theta": theta}
        for kind, theta in (("full_attention", 1e6), ("sliding_attention", 1e4))
    }
    config = transformers.Gemma3Config(
        vision_config=tower_settings(SiglipVisionConfig, patch_size=7),
        text_config=text | {"rope_parameters": rotary},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        mm_tokens_per_image=16,
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer,
        image_seq_length=16,
        chat_template=template("<start_of_image>"),
    )
    return stirred(transformers.Gemma3ForConditionalGeneration(config)), processor
