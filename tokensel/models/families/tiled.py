"""LLaVA-NeXT, LLaVA-NeXT-Video and LLaVA-OneVision: an overview of the picture and tiles of it, or a video's frames."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokensel.models.arrangement import Arrangement, Frames, PackedTiles
from tokensel.models.families.base import Family, Grid


class Tiled(Family):
    """LLaVA-NeXT and LLaVA-OneVision: an overview and tiles of the picture, whose rows end in a newline token.

    There is no single grid: methods that need one receive the visual tokens as one row in reading order.
    """

    fixed_size = False

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> Grid | None:
        return 1, 0

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return PackedTiles(llava, pictures)


class NextVideo(Tiled):
    """LLaVA-NeXT-Video: pictures as LLaVA-NeXT; squares of a frame's patches are pooled into one visual token."""

    videos = True

    def video_grids(self, config: Any, pictures: Mapping[str, Any]) -> list[Grid]:
        videos, frames, _, height, width = pictures["pixel_values_videos"].shape
        side = config.vision_config.patch_size
        rows, cols = (pixels // side // config.spatial_pool_stride for pixels in (height, width))
        return [(frames, rows, cols)] * videos

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        if "pixel_values_videos" not in pictures:
            return super().arrangement(llava, pictures, cls)
        return Frames(pictures, partial(_pooled, stride=llava.config.spatial_pool_stride))


def _pooled(values: Tensor, stride: int) -> Tensor:
    """Values of patches [tiles, P, C], averaged over squares: [tiles, P / stride^2, C]."""
    square = values.transpose(1, 2).unflatten(2, (math.isqrt(values.shape[1]), -1))
    return nn.functional.avg_pool2d(square, stride).flatten(2).transpose(1, 2)


class OneVision(Tiled):
    """LLaVA-OneVision, which does not tile the pictures of a prompt with several.

    A video's frames are resized to half their rows and columns. The newline token that ends a video shows nothing of
    it: it is no visual token, and stays.
    """

    several_pictures = False
    videos = True

    def video_grids(self, config: Any, pictures: Mapping[str, Any]) -> list[Grid]:
        videos, frames = pictures["pixel_values_videos"].shape[:2]
        side = math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)
        return [(frames, side, side)] * videos

    def video_features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        # In older versions the model's forward adds the newline.
        count, found = math.prod(self.video_grids(llava.config, pictures)[0]), super().video_features(llava, pictures)
        return [torch.cat([each, llava.image_newline[None]]) if len(each) == count else each for each in found]

    def video_tokens(self, config: Any, input_ids: Tensor) -> Tensor:
        tokens = super().video_tokens(config, input_ids)
        return tokens & nn.functional.pad(tokens, (0, 1))[:, 1:]

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        if "pixel_values_videos" not in pictures:
            return super().arrangement(llava, pictures, cls)
        return Frames(pictures, llava.apply_pooling)
