"""The differences between model families: how a picture becomes visual tokens, and which positions they get.

To add a family, add one entry to FAMILIES, and a subclass of `Family` if none of those here fits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.models.arrangement import Arrangement, MergedPatches, PackedTiles, ShuffledTiles

# Arguments of a forward with one value per prompt token, rather than per picture.
ALONG_PROMPT = ("mm_token_type_ids", "token_type_ids")


class Family:
    """LLaVA-1.5 and models like it: every picture becomes one square grid with the same number of visual tokens.

    `pictures` always holds what a processor returns besides the prompt: pixel_values and its companions, with one entry
    per picture.

    Attributes:
        fixed_size: every picture has the same number of visual tokens, so a prompt can be tokenized before its picture
            is opened
        several_pictures: prompts with several pictures are tested
    """

    fixed_size = True
    several_pictures = True

    def for_processor(self, images: list[Any]) -> list[Any]:
        """The pictures, one per prompt, in the form that the family's processor expects."""
        return images

    def features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        """The visual tokens of each picture as the decoder receives them: [N, D] each."""
        arguments = {name: value for name, value in pictures.items() if name not in ALONG_PROMPT}
        return list(llava.get_image_features(**arguments, return_dict=True).pooler_output)

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        """Rows and columns of the pictures' visual tokens.

        None stands for a square grid, (1, 0) for no single grid: the tokens then count as one row in reading order.
        """
        return None

    def patch_side(self, config: Any) -> int:
        """How many pixels of a processed picture a visual token shows, on each side."""
        return config.vision_config.patch_size

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        """How patches of the vision tower become visual tokens; None: as in LLaVA-1.5. cls: the tower has a [CLS]."""
        return None if cls else Arrangement(pictures)

    def position_ids(self, llava: Any, input_ids: Tensor, mask: Tensor | None, pictures: Mapping[str, Any]) -> Tensor:
        """Position ids of a left-padded prompt: LongTensor[B, T], or [3, B, T] if the rotary embedding has 3 axes."""
        if mask is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape[0], -1)
        return (mask.long().cumsum(1) - 1).clamp_min(0)

    def along_prompt(self, input_ids: Tensor, config: Any) -> dict[str, Tensor]:
        """Further arguments of the forward with one value per prompt token."""
        return {}

    def take(self, pictures: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """The entries of the pictures at `rows`, in that order."""
        return {name: value[list(rows)] for name, value in pictures.items()}


class Tiled(Family):
    """LLaVA-NeXT and LLaVA-OneVision: an overview and tiles of the picture, whose rows end in a newline token.

    There is no single grid: methods that need one receive the visual tokens as one row in reading order.
    """

    fixed_size = False

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        return 1, 0

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return PackedTiles(llava, pictures)


class OneVision(Tiled):
    """LLaVA-OneVision, which does not tile the pictures of a prompt with several."""

    several_pictures = False


class Idefics3(Tiled):
    """Idefics3 and SmolVLM: tiles and an overview, separated by text tokens. An untiled picture is one grid."""

    several_pictures = False

    def for_processor(self, images: list[Any]) -> list[Any]:
        return [[image] for image in images]

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        pixels = pictures.get("pixel_values")
        return None if pixels is not None and pixels.shape[1] == 1 else (1, 0)

    def patch_side(self, config: Any) -> int:
        return config.vision_config.patch_size * config.scale_factor

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return ShuffledTiles(llava, pictures)


class QwenVL(Family):
    """Qwen2-VL and Qwen2.5-VL: pictures keep their aspect ratio; positions have axes for time, height and width."""

    fixed_size = False

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        if "image_grid_thw" not in pictures:
            return None
        merged = config.vision_config.spatial_merge_size
        shapes = {(int(rows) // merged, int(cols) // merged) for _, rows, cols in pictures["image_grid_thw"].tolist()}
        return shapes.pop() if len(shapes) == 1 else None

    def patch_side(self, config: Any) -> int:
        return config.vision_config.patch_size * config.vision_config.spatial_merge_size

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return MergedPatches(llava, pictures)

    def position_ids(self, llava: Any, input_ids: Tensor, mask: Tensor | None, pictures: Mapping[str, Any]) -> Tensor:
        if "image_grid_thw" not in pictures:
            return super().position_ids(llava, input_ids, mask, pictures).expand(3, -1, -1)
        kinds = (input_ids == llava.config.image_token_id).int()
        grids = pictures["image_grid_thw"]
        return llava.get_rope_index(input_ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=mask)[0]

    def along_prompt(self, input_ids: Tensor, config: Any) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (input_ids == config.image_token_id).int()}

    def take(self, pictures: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        grids = pictures["image_grid_thw"]
        patches = pictures["pixel_values"].split(grids.prod(1).tolist())
        return {"pixel_values": torch.cat([patches[row] for row in rows]), "image_grid_thw": grids[list(rows)]}


FAMILIES: dict[str, Family] = {
    "llava": Family(),
    "vipllava": Family(),
    "llava_next": Tiled(),
    "llava_onevision": OneVision(),
    "qwen2_vl": QwenVL(),
    "qwen2_5_vl": QwenVL(),
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


def picture_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward that hold its pictures."""
    names = ("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask", "batch_num_images")
    return {name: arguments[name] for name in names if arguments.get(name) is not None}
