"""The embedded LLaVA before training: configuration, tokenizer and processor, all of transformers' own classes."""

from __future__ import annotations

import math

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokensel.data.prompts import INSTRUCTION

IMAGE_TOKEN = "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
_PAD, _BOS, _EOS = "<pad>", "<s>", "</s>"
_VOCABULARY = 1000


def build_tokenizer(corpus: list[str], phrases: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `corpus`: common words are one token, any other text is split into bytes.

    `phrases` (recurring sentences) and the prompt's instruction become one token each, which keeps prompts short.
    """
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\n[A-Z]\.| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_PAD, _BOS, _EOS, IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(corpus), trainer)
    template = ["USER:", " ASSISTANT:", f"\n{INSTRUCTION}"]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in [*template, *sorted(phrases)]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", pair=f"{_BOS} $A $B", special_tokens=[(_BOS, tokenizer.token_to_id(_BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """LLaVA-1.5's processor: resizes the short side to 336 px, crops the centre, normalises as CLIP does."""
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as ImageProcessor
    except ImportError:
        from transformers import CLIPImageProcessor as ImageProcessor  # type: ignore[assignment]
    image_processor = ImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """A small LLaVA-1.5: a vision tower of 336 px and 14 px patches (576 visual tokens), 8 decoder layers, 192 wide."""
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        projection_dim=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=336,
        patch_size=14,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def build_model(config: LlavaConfig, seed: int) -> LlavaForConditionalGeneration:
    """A model with seeded random weights. Its vision tower starts with structure that it would otherwise have to learn.

    The position embeddings start as 2-D sinusoids. The query and key weights start equal, so that a patch attends to
    patches of similar colour and position from the first step; without this, most of a short training goes into
    learning it.

    Source: Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers",
    https://arxiv.org/abs/2305.09828
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    positions = tower.get_submodule(_submodule_name(tower, "position_embedding")).weight
    with torch.no_grad():
        for attention in (m for m in tower.modules() if hasattr(m, "q_proj")):
            torch.nn.init.orthogonal_(attention.q_proj.weight)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
        positions[1:] = _sinusoids(
            config.vision_config.image_size // config.vision_config.patch_size, positions.shape[1]
        )
    return model


def _submodule_name(module: torch.nn.Module, ending: str) -> str:
    """The full name of the submodule whose name ends so; its path differs between transformers releases."""
    return next(name for name, _ in module.named_modules() if name.endswith(ending))


def _sinusoids(grid: int, width: int) -> torch.Tensor:
    """2-D sine and cosine position codes [grid * grid, width]: first half of the width for rows, second for columns."""
    quarter = width // 4
    rates = (2 * math.pi / grid) * torch.linspace(0.5, 6, quarter)
    angles = torch.arange(grid)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows = axis[:, None].expand(grid, grid, -1)
    columns = axis[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], -1).reshape(grid * grid, -1)
