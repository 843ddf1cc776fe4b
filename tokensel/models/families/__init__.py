"""The differences between model families: how a picture becomes visual tokens, and which positions they get.

To add a family, add one entry to FAMILIES, and a file with a subclass of `Family` if none of those here fits.
"""

from typing import Any

from tokensel.errors import TokenselError
from tokensel.models.families.base import ALONG_PROMPT, Family, picture_arguments
from tokensel.models.families.idefics3 import Idefics3
from tokensel.models.families.qwen_vl import Qwen3VL, QwenVL
from tokensel.models.families.tiled import OneVision, Tiled

__all__ = ["ALONG_PROMPT", "FAMILIES", "Family", "family_of", "picture_arguments"]

FAMILIES: dict[str, Family] = {
    "llava": Family(),
    "vipllava": Family(),
    "llava_next": Tiled(),
    "llava_onevision": OneVision(),
    "qwen2_vl": QwenVL(),
    "qwen2_5_vl": QwenVL(),
    "qwen3_vl": Qwen3VL(),
    "qwen3_vl_moe": Qwen3VL(),
    "idefics3": Idefics3(),
    "smolvlm": Idefics3(),
}


def family_of(config: Any, like: str | None = None) -> Family:
    """The family of a model's configuration; like: the one to treat it as, whatever its model type.

    Raises TokenselError for a family that has not been tested.
    """
    name = getattr(config, "model_type", "") if like is None else like
    if name not in FAMILIES:
        key, hint = ("model_type", ", or family= with the one that it is like") if like is None else ("family", "")
        raise TokenselError(f"{key}={name}: not tested; allowed are {', '.join(FAMILIES)}{hint}")
    return FAMILIES[name]
