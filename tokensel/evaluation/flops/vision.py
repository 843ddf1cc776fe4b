"""FLOPs from pixels to visual tokens, one function per kind of vision tower."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tokensel.models.families import family_name
from tokensel.models.vision import feature_index, feature_layers

# Model types whose pictures keep their aspect ratio, and whose merger joins squares of patches.
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

# Families in which a visual token is a square of patches of one tile: how many patches on each side.
_MERGING: dict[str, Callable[[Any], int]] = {
    "idefics3": lambda config: config.scale_factor,
    "smolvlm": lambda config: config.scale_factor,
    "internvl": lambda config: int(1 / config.downsample_ratio),
    "gemma3": lambda config: (
        config.vision_config.image_size // config.vision_config.patch_size // math.isqrt(config.mm_tokens_per_image)
    ),
}


def picture_flops(
    config: Any, visual_tokens: int, pictures: Mapping[str, Any] | None = None, images: int = 1
) -> tuple[int, int]:
    """FLOPs of (vision tower, projector) for all pictures of one prompt.

    pictures: the processor's output (pixel_values, image_grid_thw, or the same of videos), of which only shapes and
    grids are read. Without it, the number of tiles or patches is estimated from `visual_tokens` and `images`; that is
    inexact for families that cut pictures into tiles or keep their aspect ratio, and for videos.

    Raises AttributeError if the configuration lacks a size.
    """
    if family_name(config) in QWEN:
        return _qwen(config, _grids(config, visual_tokens, pictures or {}, images))
    vision = config.vision_config
    if family_name(config) in _MERGING:
        patches, tokens = _patches_and_tokens(config, pictures or {})
        tiles = _tiles(pictures or {}, images, visual_tokens, tokens)
        special = int(family_name(config) == "internvl")
        return tiles * _clip(vision, patches, special), tiles * tokens * _connector(config, patches // tokens)
    side = vision.image_size // vision.patch_size
    # CLIP towers have a [CLS] token, SigLIP towers have none.
    special = 0 if "siglip" in vision.model_type else 1
    chosen = side * side + special * (getattr(config, "vision_feature_select_strategy", "default") == "full")
    tiles = _tiles(pictures or {}, images, visual_tokens, chosen)
    projected = tiles * chosen
    if "pixel_values_videos" in (pictures or {}):
        if config.model_type == "llava_next_video":  # pools before it projects
            projected = tiles * (side // config.spatial_pool_stride) ** 2
        elif config.model_type == "video_llava":  # projects each frame's [CLS] too
            projected = tiles * (side * side + special)
    return tiles * _clip(vision, side * side, special), projected * projector_flops(config)


def tower_sizes(
    config: Any, visual_tokens: int, pictures: Mapping[str, Any] | None = None, images: int = 1
) -> dict[str, Any]:
    """The fields of `Sizes` that describe the vision tower. Arguments and errors: see `picture_flops`."""
    vision, shown = config.vision_config, pictures or {}
    heads = getattr(vision, "num_heads", None) or vision.num_attention_heads
    width, special = vision.hidden_size, 0
    if family_name(config) in QWEN:
        width = getattr(vision, "embed_dim", width)
        grids = _grids(config, visual_tokens, shown, images)
        tiles = sum(frames for frames, _, _ in grids)
        patches = sum(math.prod(grid) for grid in grids) // tiles
    elif family_name(config) in _MERGING:
        patches, tokens = _patches_and_tokens(config, shown)
        tiles, special = _tiles(shown, images, visual_tokens, tokens), int(family_name(config) == "internvl")
    else:
        special, patches = int("siglip" not in vision.model_type), (vision.image_size // vision.patch_size) ** 2
        tiles = _tiles(shown, images, visual_tokens, patches)
    cls = bool(special) and not hasattr(config, "image_grid_pinpoints") and family_name(config) not in _MERGING
    cls = cls and "pixel_values_videos" not in shown
    layers = feature_layers(config)
    return {
        "vision_width": width,
        "vision_head_width": width // heads,
        "vision_tokens": patches + special,
        "vision_tiles": tiles,
        "vision_cls": cls,
        "vision_received": not special,
        "feature_width": (width if isinstance(layers, int) else width * len(layers))
        if cls
        else config.text_config.hidden_size,
        "vision_through": feature_index(config) if cls else 0,
        "vision_mlp": getattr(vision, "intermediate_size", 0),
        "projector": projector_flops(config) if cls else 0,
    }


def video_frames(pictures: Mapping[str, Any]) -> int:
    """Of how many frames a prompt's visual tokens are; 1 for pictures. Qwen-VL's are pairs of frames."""
    if "video_grid_thw" in pictures:
        return int(torch.as_tensor(pictures["video_grid_thw"])[0, 0])
    return pictures["pixel_values_videos"].shape[1] if "pixel_values_videos" in pictures else 1


def projector_flops(config: Any) -> int:
    """FLOPs of LLaVA's projector per token: two linear layers; their input concatenates all feature layers."""
    layers = feature_layers(config)
    width_in = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    hidden = config.text_config.hidden_size
    return 2 * hidden * (width_in + hidden)


def _tiles(pictures: Mapping[str, Any], images: int, visual_tokens: int, tokens: int) -> int:
    """How many tiles the tower encodes: the product of the leading axes of pixel_values [..., 3, H, W]."""
    for name in ("pixel_values", "pixel_values_images", "pixel_values_videos"):
        if name in pictures:
            return math.prod(pictures[name].shape[:-3])
    return images * max(1, round(visual_tokens / images / tokens))


def _patches_and_tokens(config: Any, pictures: Mapping[str, Any]) -> tuple[int, int]:
    """How many patches one tile has, and how many visual tokens squares of them become."""
    vision, side = config.vision_config, _MERGING[family_name(config)](config)
    rows, cols = pictures["pixel_values"].shape[-2:] if "pixel_values" in pictures else _pair(vision.image_size)
    down, across = _pair(vision.patch_size)
    patches = (rows // down) * (cols // across)
    return patches, patches // side**2


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _connector(config: Any, merged: int) -> int:
    """FLOPs per visual token of `merged` patches: one linear layer, two in InternVL; Gemma 3 averages before it."""
    width, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
    if family_name(config) == "internvl":
        return 2 * hidden * (width * merged + hidden)
    return 2 * hidden * width * (1 if family_name(config) == "gemma3" else merged)


def _clip(vision: Any, patches: int, special: int) -> int:
    """FLOPs of a CLIP- or SigLIP-like tower on one tile: patch embedding, then layers of attention and a plain MLP.

    All layers count, because transformers also computes those above the feature layer.
    """
    tokens, hidden = patches + special, vision.hidden_size
    mlp = 4 * hidden * vision.intermediate_size
    embedding = 2 * vision.num_channels * math.prod(_pair(vision.patch_size)) * hidden * patches
    layer = tokens * (8 * hidden**2 + mlp) + 4 * hidden * tokens**2
    pooling = 0
    # SigLIP has a head unless its configuration says otherwise: attention of one learned query, then an MLP.
    if getattr(vision, "vision_use_head", vision.model_type == "siglip_vision_model"):
        pooling = 4 * hidden**2 * (1 + tokens) + 4 * hidden * tokens + mlp
    return embedding + vision.num_hidden_layers * layer + pooling


Grid = tuple[int, int, int]


def _grids(config: Any, visual_tokens: int, pictures: Mapping[str, Any], images: int) -> list[Grid]:
    """Frames, rows and columns of patches in each picture or video."""
    for name in ("image_grid_thw", "video_grid_thw"):
        if name in pictures:
            return [(frames, rows, cols) for frames, rows, cols in torch.as_tensor(pictures[name]).tolist()]
    merge = config.vision_config.spatial_merge_size
    tokens = visual_tokens // images
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return [(1, rows * merge, tokens // rows * merge)] * images


def _qwen(config: Any, grids: list[Grid]) -> tuple[int, int]:
    """FLOPs of Qwen-VL's (tower, mergers). A patch attends to its frame; in most Qwen2.5-VL layers, to its window.
    Qwen3-VL has one merger for the visual tokens, and one for each layer with deepstack features."""
    vision, windowed = config.vision_config, family_name(config) == "qwen2_5_vl"
    first = family_name(config) == "qwen2_vl"
    hidden = vision.embed_dim if first else vision.hidden_size
    out = vision.hidden_size if first else vision.out_hidden_size
    wide = hidden * vision.mlp_ratio if first else vision.intermediate_size
    mlp = (6 if windowed else 4) * hidden * wide
    mergers = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
    patches = sum(math.prod(grid) for grid in grids)
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    frame_pairs = sum(frames * (rows * cols) ** 2 for frames, rows, cols in grids)
    window_pairs = frame_pairs
    full_layers = vision.depth
    if windowed:
        side = vision.window_size // vision.patch_size
        window_pairs = sum(frames * _squares(rows, side) * _squares(cols, side) for frames, rows, cols in grids)
        full_layers = len(set(vision.fullatt_block_indexes) & set(range(vision.depth)))
    attention = 4 * hidden * (full_layers * frame_pairs + (vision.depth - full_layers) * window_pairs)
    tower = patches * (2 * pixels * hidden + vision.depth * (8 * hidden**2 + mlp)) + attention
    merged = hidden * vision.spatial_merge_size**2
    return tower, mergers * (patches // vision.spatial_merge_size**2) * 2 * merged * (merged + out)


def _squares(length: int, window: int) -> int:
    """The sum of squared window lengths when `length` is cut into windows."""
    return length // window * window**2 + (length % window) ** 2
