"""What differs between model families: how a picture becomes visual tokens, and what places they have.

One mechanism serves all of them; a new family is one small class here, if the default does not fit already.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Arguments of a forward that are laid out along the prompt, not by picture.
ALONG_PROMPT = ("mm_token_type_ids", "token_type_ids")


class Family:
    """LLaVA-1.5 and whatever works like it: one picture is one square grid of visual tokens, always as many.

    `pictures` is everywhere what a processor makes of them beside the prompt: pixel_values and what goes with it, all
    with one entry per picture.
    """

    # one_grid: methods may look at the vision tower and at rows and columns. fixed_size: every picture gives equally
    # many visual tokens, so that a prompt can be laid out before its picture is opened.
    one_grid = True
    fixed_size = True

    def for_processor(self, images: list[Any]) -> list[Any]:
        """One picture per prompt, in the form that the family's processor wants."""
        return images

    def features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        """The visual tokens of each picture, as the decoder gets them: [N, D] each."""
        given = {name: value for name, value in pictures.items() if name not in ALONG_PROMPT}
        return list(llava.get_image_features(**given, return_dict=True).pooler_output)

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        """Rows and columns of the pictures' visual tokens; None: a square. (1, N): no single grid, N runs along it."""
        return None

    def position_ids(self, llava: Any, input_ids: Tensor, mask: Tensor | None, pictures: Mapping[str, Any]) -> Tensor:
        """Position ids of a left-padded prompt: LongTensor[B, T], or [3, B, T] for a rotary embedding of three axes."""
        if mask is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape[0], -1)
        return (mask.long().cumsum(1) - 1).clamp_min(0)

    def along_prompt(self, input_ids: Tensor, config: Any) -> dict[str, Tensor]:
        """What else the model is told along the prompt."""
        return {}

    def take(self, pictures: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """The entries of some of the pictures."""
        return {name: value[list(rows)] for name, value in pictures.items()}


class Tiled(Family):
    """LLaVA-NeXT, LLaVA-OneVision: an overview and tiles of the picture, the rows of which end in a newline token.

    They have no single grid: methods that need one take the visual tokens as one row in reading order.
    """

    one_grid = False
    fixed_size = False

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        return 1, 0


class Idefics3(Tiled):
    """SmolVLM, Idefics3: tiles and an overview, with text tokens between them; a picture left whole is one grid."""

    def for_processor(self, images: list[Any]) -> list[Any]:
        return [[image] for image in images]

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        pixels = pictures.get("pixel_values")
        return None if pixels is not None and pixels.shape[1] == 1 else (1, 0)


class QwenVL(Family):
    """Qwen2-VL, Qwen2.5-VL: the picture at its own shape, and positions along time, height and width."""

    one_grid = False
    fixed_size = False

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        if "image_grid_thw" not in pictures:
            return None
        merged = config.vision_config.spatial_merge_size
        shapes = {(int(rows) // merged, int(cols) // merged) for _, rows, cols in pictures["image_grid_thw"].tolist()}
        return shapes.pop() if len(shapes) == 1 else None

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
    "llava_onevision": Tiled(),
    "qwen2_vl": QwenVL(),
    "qwen2_5_vl": QwenVL(),
    "idefics3": Idefics3(),
    "smolvlm": Idefics3(),
}


def family_of(config: Any) -> Family:
    """The family of a model's configuration; what is not known is taken to be like LLaVA-1.5."""
    return FAMILIES.get(getattr(config, "model_type", ""), FAMILIES["llava"])


def picture_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of a forward that hold its pictures."""
    names = ("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask", "batch_num_images")
    return {name: given[name] for name in names if given.get(name) is not None}
