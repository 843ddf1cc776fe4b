"""Very small random models that the tests share: real transformers classes, milliseconds per forward."""

import copy
from functools import cache

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

IMAGE_TOKEN = 3
PAD_TOKEN = 0


def tiny_llama_config(**overrides) -> LlamaConfig:
    settings = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "pad_token_id": PAD_TOKEN,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**(settings | overrides))


def tiny_llama(seed: int = 0, attn_implementation: str = "sdpa", **overrides) -> LlamaForCausalLM:
    """A random LlamaForCausalLM in eval mode; overrides go to LlamaConfig. `.model` is the LlamaModel."""
    torch.manual_seed(seed)
    config = tiny_llama_config(**overrides)
    config._attn_implementation = attn_implementation
    return LlamaForCausalLM(config).eval()


def tiny_llava(
    seed: int = 0, image_size: int = 84, attn_implementation: str = "sdpa", **overrides
) -> LlavaForConditionalGeneration:
    """A random LLaVA in eval mode; (image_size / 14)^2 visual tokens, 36 by default.

    overrides go to the text decoder's LlamaConfig.
    """
    made = _tiny_llava(seed, image_size, attn_implementation, **overrides)
    torch.manual_seed(seed)
    return copy.deepcopy(made)  # in half the time that making another one takes


@cache
def _tiny_llava(seed: int, image_size: int, attn_implementation: str, **overrides) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=14,
        projection_dim=16,
        initializer_factor=10.0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=tiny_llama_config(**overrides),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(image_size // 14) ** 2,
    )
    config._attn_implementation = attn_implementation
    config.text_config._attn_implementation = attn_implementation
    config.pad_token_id = PAD_TOKEN
    return LlavaForConditionalGeneration(config).eval()


def llava_inputs(
    model: LlavaForConditionalGeneration,
    texts: tuple[int, ...] = (5,),
    before: int = 3,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """One left-padded batch: a row per entry of `texts`, which says how many text tokens follow the image.

    Row r is the same whatever rows stand beside it, so batches can be compared with single prompts.
    Keys: input_ids [B, T], attention_mask [B, T], pixel_values [B, 3, H, W].
    """
    size = model.config.vision_config.image_size
    visual = (size // model.config.vision_config.patch_size) ** 2
    longest = before + visual + max(texts)
    rows, masks, pixels = [], [], []
    for row, after in enumerate(texts):
        generator = torch.Generator().manual_seed(seed * 1000 + row)
        words = torch.randint(
            4,
            model.config.text_config.vocab_size,
            (before + after,),
            generator=generator,
        )
        ids = torch.cat([words[:before], torch.full((visual,), IMAGE_TOKEN), words[before:]])
        padding = longest - len(ids)
        rows.append(torch.cat([torch.full((padding,), PAD_TOKEN), ids]))
        masks.append(torch.cat([torch.zeros(padding), torch.ones(len(ids))]).long())
        pixels.append(torch.randn(3, size, size, generator=generator))
    return {
        "input_ids": torch.stack(rows),
        "attention_mask": torch.stack(masks),
        "pixel_values": torch.stack(pixels),
    }


def single_row(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """Row `row` of a left-padded batch as a batch of one, its padding cut off."""
    padding = int((inputs["attention_mask"][row] == 0).sum())
    return {
        "input_ids": inputs["input_ids"][row : row + 1, padding:],
        "attention_mask": inputs["attention_mask"][row : row + 1, padding:],
        "pixel_values": inputs["pixel_values"][row : row + 1],
    }
