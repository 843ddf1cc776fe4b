"""Video-LLaVA: pictures as LLaVA-1.5; a video's frames with a [CLS] token each."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensel.models.arrangement import Arrangement, Frames
from tokensel.models.families.base import Family, Grid, pixels_of


class VideoLlava(Family):
    """Video-LLaVA. The decoder is given the [CLS] of every frame too, before its patches.

    Since a frame is no whole grid with it, its visual tokens count as one row in reading order.
    """

    videos = True

    def features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        # The argument's name differs between versions.
        return list(llava.get_image_features(pixels_of(pictures), return_dict=True).pooler_output)

    def video_features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        videos = len(pictures["pixel_values_videos"])
        frames = llava.get_video_features(pictures["pixel_values_videos"], return_dict=True).pooler_output
        return list(frames.flatten(0, 1).unflatten(0, (videos, -1)))

    def video_grids(self, config: Any, pictures: Mapping[str, Any]) -> list[Grid]:
        videos, frames, _, height, width = pictures["pixel_values_videos"].shape
        side = config.vision_config.patch_size
        return [(frames, 1, 1 + (height // side) * (width // side))] * videos

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        if "pixel_values_videos" in pictures:
            return Frames(pictures, lambda values: nn.functional.pad(values, (0, 0, 1, 0)))
        return None
