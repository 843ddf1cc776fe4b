"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures of any shape, positions of three axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensel.models.arrangement import Arrangement, MergedPatches
from tokensel.models.families.base import Family


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


class Qwen3VL(QwenVL):
    """Qwen3-VL, dense or with experts: its first decoder layers also add deepstack features to the visual tokens."""

    deepstack = True
    processor_type = "qwen3_vl"

    def features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        given = {name: pictures[name] for name in ("pixel_values", "image_grid_thw")}
        return with_deepstack(llava.get_image_features(**given, return_dict=True))


def with_deepstack(output: Any) -> list[Tensor]:
    """The tower's tokens of each picture with their deepstack features beside them: [N, (1 + K) D] each."""
    # Older versions of transformers give the pictures of a layer together, newer ones each by itself.
    deepstack = [each if isinstance(each, Tensor) else torch.cat(each) for each in output.deepstack_features]
    beside = torch.cat([torch.cat(output.pooler_output), *deepstack], 1)
    return list(beside.split([len(tokens) for tokens in output.pooler_output]))
