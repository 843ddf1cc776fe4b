"""Tiny random checkpoints of every supported family, in transformers' own classes, saved with their processors; the
methods that run on each, and questions for all of them."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import transformers
from PIL import Image
from transformers import CLIPVisionConfig, SiglipVisionConfig
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from helpers.family_parts import SIDE, template, text_settings, tower_settings
from helpers.gemma_internvl import gemma3, internvl
from helpers.tokenizers import make_tokenizer
from helpers.video_settings import write_video_settings
from tokensel import METHODS
from tokensel.data import Question
from tokensel.models import LoadedModel, load_model
from tokensel.models.families import FAMILIES as ADAPTERS
from tokensel.models.processors import processor_class

FAMILIES = (
    "llava",
    "vipllava",
    "llava_next",
    "llava_next_video",
    "video_llava",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "smolvlm",
    "idefics3",
    "internvl",
    "gemma3",
)
# Families whose vision tower has one [CLS] for the whole picture.
WITH_CLS = ("llava", "vipllava", "video_llava")
FAMILY_METHODS = [
    (family, method)
    for family in FAMILIES
    for method in sorted(METHODS)
    if family in WITH_CLS or not METHODS[method].needs_cls
    if not METHODS[method].changes_picture
    if (family, method) != ("vipllava", "flowcut")  # whose features are those of several layers
]
QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
TILES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _tokenizer():
    tokenizer = make_tokenizer()
    more = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<video>"]
    more += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    more += [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    return tokenizer


def _clip_sizes() -> dict:
    return {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def _llava(family: str, tokenizer):
    kind = {"llava": "Llava", "vipllava": "VipLlava"}[family]
    layers = {"vision_feature_layer": -2} if family == "llava" else {"vision_feature_layers": [-2, -1]}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=tower_settings(CLIPVisionConfig),
        text_config={"model_type": "llama"} | text_settings(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **layers,
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(**_clip_sizes()),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _llava_next(family: str, tokenizer):
    kind = {"llava_next": "LlavaNext", "llava_next_video": "LlavaNextVideo"}[family]
    video = {"video_token_index": tokenizer.convert_tokens_to_ids("<video>")} if family == "llava_next_video" else {}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=tower_settings(CLIPVisionConfig),
        text_config={"model_type": "llama"} | text_settings(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=TILES,
        **video,
    )
    processor = (processor_class(family) or LlavaNextProcessor)(
        LlavaNextImageProcessorPil(image_grid_pinpoints=TILES, **_clip_sizes()),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _video_llava(family: str, tokenizer):
    config = transformers.VideoLlavaConfig(
        vision_config=tower_settings(CLIPVisionConfig),
        text_config={"model_type": "llama"} | text_settings(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = processor_class(family)(
        VideoLlavaImageProcessor(**_clip_sizes()), tokenizer, patch_size=14, chat_template=template("<image>")
    )
    return transformers.VideoLlavaForConditionalGeneration(config), processor


def _llava_onevision(family: str, tokenizer):
    config = transformers.LlavaOnevisionConfig(
        vision_config=tower_settings(SiglipVisionConfig),
        text_config={"model_type": "qwen2"} | text_settings(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=TILES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = processor_class(family)(
        LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=TILES),
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(family: str, tokenizer):
    kind = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[family]
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 48, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, text_config=text_settings(tokenizer) | {"rope_parameters": rope}, **_qwen_ids(tokenizer)
    )
    processor = processor_class(family)(
        _qwen_pictures(), tokenizer, chat_template=template(QWEN, QWEN.replace("image", "video"))
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _qwen3(family: str, tokenizer):
    kind = {"qwen3_vl": "Qwen3VL", "qwen3_vl_moe": "Qwen3VLMoe"}[family]
    vision = {"depth": 3, "num_heads": 2, "hidden_size": 24, "intermediate_size": 48, "out_hidden_size": 32}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    vision |= {"initializer_range": 0.2}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "mrope_interleaved": True}
    text = text_settings(tokenizer) | {"rope_parameters": rope, "head_dim": 8}
    if family == "qwen3_vl_moe":
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text, **_qwen_ids(tokenizer))
    processor = processor_class("qwen3_vl")(
        _qwen_pictures(), tokenizer, chat_template=template(QWEN, QWEN.replace("image", "video"))
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _qwen_ids(tokenizer) -> dict:
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    return ids | {
        f"vision_{end}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")
    }


def _qwen_pictures():
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 24}
    return Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, size=sizes)


def _idefics3(family: str, tokenizer):
    kind = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[family]
    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=tower | {"image_size": SIDE, "patch_size": 14},
        text_config={"model_type": "llama"} | text_settings(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    sizes = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    pictures = {"smolvlm": SmolVLMImageProcessorPil, "idefics3": Idefics3ImageProcessorPil}[family](**sizes)
    processor = (processor_class(family) or Idefics3Processor)(
        pictures, tokenizer, image_seq_len=4, chat_template=template("<image>")
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


_MAKERS = {
    "llava": _llava,
    "vipllava": _llava,
    "llava_next": _llava_next,
    "llava_next_video": _llava_next,
    "video_llava": _video_llava,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen3,
    "qwen3_vl_moe": _qwen3,
    "smolvlm": _idefics3,
    "idefics3": _idefics3,
    "internvl": internvl,
    "gemma3": gemma3,
}


def save_family(family: str, folder: Path) -> Path:
    """Writes a random checkpoint of the family, as save_pretrained does, and returns its folder.

    Skips the test where this version of transformers cannot load what it writes.
    """
    pictures = IMAGE_PROCESSOR_MAPPING_NAMES[ADAPTERS[family].processor_type or family]["pil"]
    pictures = get_image_processor_class_from_name(pictures)
    if getattr(pictures, "is_dummy", False):
        pytest.skip(f"this transformers wants torchvision for {family}'s PIL image processor, which does not use it")
    torch.manual_seed(0)
    model, processor = _MAKERS[family](family, _tokenizer())
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    if ADAPTERS[family].videos:
        write_video_settings(family, folder)
    return folder


@cache
def load_family(family: str) -> LoadedModel:
    """The family's checkpoint, loaded as any folder is; one for all tests, which leave it as it was."""
    with TemporaryDirectory() as folder:
        return load_model(save_family(family, Path(folder)))


def make_picture(size: tuple[int, int] = (100, 60), seed: int = 0) -> Image.Image:
    """Smooth random colours. size: width and height in pixels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy()).resize(size, Image.Resampling.BICUBIC)


def make_question(id: str, words: int, size: tuple[int, int] = (100, 60)) -> Question:
    image = make_picture(size, seed=sum(map(ord, id)))
    return Question(id=id, text="what? " * words, choices=("red", "teal"), answer=0, image=image)


# Prompts of unequal lengths, the last neither the longest nor the shortest.
QUESTIONS = [make_question("a", 1), make_question("b", 4), make_question("c", 2)]
