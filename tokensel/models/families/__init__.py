"""The differences between model families: how a picture becomes visual tokens, and which positions they get.

To add a family, add one entry to FAMILIES, and a file with a subclass of `Family` if none of those here fits.
"""

from typing import Any

from tokensel.errors import TokenselError, check_choice
from tokensel.models.families.base import ALONG_PROMPT, COMPANIONS, VIDEOS, Family, Grid, picture_arguments, pixels_of
from tokensel.models.families.gemma3 import Gemma3
from tokensel.models.families.idefics3 import Idefics3
from tokensel.models.families.internvl import InternVL
from tokensel.models.families.qwen_video import Qwen3Video, QwenVideo
from tokensel.models.families.recurrent import refuse_recurrent
from tokensel.models.families.tiled import NextVideo, OneVision, Tiled
from tokensel.models.families.video_llava import VideoLlava

__all__ = [
    "ALONG_PROMPT",
    "COMPANIONS",
    "FAMILIES",
    "VIDEOS",
    "Family",
    "Grid",
    "family_name",
    "family_of",
    "picture_arguments",
    "pixels_of",
    "refuse_recurrent",
    "treat_as",
]

FAMILIES: dict[str, Family] = {
    "llava": Family(),
    "vipllava": Family(),
    "llava_next": Tiled(),
    "llava_next_video": NextVideo(),
    "llava_onevision": OneVision(),
    "video_llava": VideoLlava(),
    "qwen2_vl": QwenVideo(),
    "qwen2_5_vl": QwenVideo(),
    "qwen3_vl": Qwen3Video(),
    "qwen3_vl_moe": Qwen3Video(),
    "idefics3": Idefics3(),
    "smolvlm": Idefics3(),
    "internvl": InternVL(),
    "gemma3": Gemma3(),
}


# Where a configuration keeps which family its model is to be treated as.
_LIKE = "tokensel_family"


def treat_as(config: Any, family: str | None) -> None:
    """Lets a model's configuration say that it is like a tested family; None changes nothing.

    Raises TokenselError unless that family is one of FAMILIES.
    """
    if family is not None:
        check_choice("model.family", family, FAMILIES)
        setattr(config, _LIKE, family)


def family_name(config: Any) -> str:
    """The model type of a configuration, or the one that `treat_as` put in its place."""
    return str(getattr(config, _LIKE, None) or getattr(config, "model_type", None))


def family_of(config: Any, like: str | None = None) -> Family:
    """The family of a model's configuration; like: the one to treat it as, whatever its model type.

    Raises TokenselError for a family that has not been tested, and for a model with layers that cannot be reduced.
    """
    refuse_recurrent(config)
    name = family_name(config) if like is None else like
    if name not in FAMILIES:
        key, hint = "family", ""
        if like is None:
            key, hint = "model_type", "; family=NAME (model.family=NAME in a sweep) says which of them it is like"
        raise TokenselError(f"{key}={name}: not tested; allowed are {', '.join(FAMILIES)}{hint}")
    return FAMILIES[name]
