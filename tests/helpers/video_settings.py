"""What a processor with a video part, which needs torchvision, would save of it beside a tiny checkpoint."""

import json
from pathlib import Path

SIDE = 56
_SIZES = {
    "video_llava": {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}},
    "llava_onevision": {"size": {"height": SIDE, "width": SIDE}},
    "qwen2_vl": {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 12}},
    # Bounds of all frames together.
    "qwen3_vl": {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 48}, "patch_size": 14},
}
_LIKE = {"llava_next_video": "video_llava", "qwen2_5_vl": "qwen2_vl", "qwen3_vl_moe": "qwen3_vl"}


def write_video_settings(family: str, folder: Path) -> None:
    """Writes video_preprocessor_config.json for frames of a few patches."""
    settings = _SIZES[_LIKE.get(family, family)]
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
