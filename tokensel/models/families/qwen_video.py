"""Videos in Qwen-VL's families: visual tokens of pairs of frames, with positions along time too."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensel.models.arrangement import Arrangement, MergedPatches
from tokensel.models.families.base import Grid, accepted
from tokensel.models.families.qwen_vl import Qwen3VL, QwenVL, with_deepstack


class QwenVideo(QwenVL):
    """Qwen2-VL and Qwen2.5-VL with videos: a visual token stands for a square of patches of two frames."""

    videos = True

    def video_grids(self, config: Any, pictures: Mapping[str, Any]) -> list[Grid]:
        merged = config.vision_config.spatial_merge_size
        return [(frames, rows // merged, cols // merged) for frames, rows, cols in pictures["video_grid_thw"].tolist()]

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return MergedPatches(llava, pictures)

    def position_ids(self, llava: Any, input_ids: Tensor, mask: Tensor | None, pictures: Mapping[str, Any]) -> Tensor:
        if "video_grid_thw" not in pictures:
            return super().position_ids(llava, input_ids, mask, pictures)
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        shown = accepted(llava.get_rope_index, {name: pictures[name] for name in names if name in pictures})
        kinds = self.along_prompt(input_ids, llava.config)["mm_token_type_ids"]
        return llava.get_rope_index(input_ids, mm_token_type_ids=kinds, attention_mask=mask, **shown)[0]

    def along_prompt(self, input_ids: Tensor, config: Any) -> dict[str, Tensor]:
        video = 2 * (input_ids == config.video_token_id).int()
        return {"mm_token_type_ids": super().along_prompt(input_ids, config)["mm_token_type_ids"] + video}

    def take(self, pictures: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        found = super().take(pictures, rows) if "image_grid_thw" in pictures else {}
        if "video_grid_thw" not in pictures:
            return found
        grids = pictures["video_grid_thw"]
        patches = pictures["pixel_values_videos"].split(grids.prod(1).tolist())
        found |= {
            "pixel_values_videos": torch.cat([patches[row] for row in rows]),
            "video_grid_thw": grids[list(rows)],
        }
        if "second_per_grid_ts" in pictures:
            found["second_per_grid_ts"] = torch.as_tensor(pictures["second_per_grid_ts"])[list(rows)]
        return found


class Qwen3Video(QwenVideo, Qwen3VL):
    """Qwen3-VL with videos, whose frames are separated by the time when they are shown."""

    def video_features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        given = {name: pictures[name] for name in ("pixel_values_videos", "video_grid_thw")}
        return with_deepstack(llava.get_video_features(**given, return_dict=True))
