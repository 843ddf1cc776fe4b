"""InternVL3 and InternVL3.5: tiles of a picture and a thumbnail, all in one run of visual tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensel.models.arrangement import Arrangement, SquaresOfTiles
from tokensel.models.families.base import Family


class InternVL(Family):
    """InternVL3 and InternVL3.5: pixel_values holds the tiles of all pictures one after the other.

    `num_patches` says how many tiles each picture has. The model does not take it: where it is missing, it is found in
    the prompt, in which each picture's tokens stand together. A picture of one tile is one grid.
    """

    fixed_size = False

    def companions(self, image_mask: Tensor, pictures: Mapping[str, Any]) -> dict[str, Tensor]:
        begins = image_mask & ~torch.nn.functional.pad(image_mask, (1, 0))[:, :-1]
        runs = begins.flatten().cumsum(0)[image_mask.flatten()]
        tokens = torch.bincount(runs, minlength=1)[1:]
        return {"num_patches": tokens * len(pictures["pixel_values"]) // tokens.sum().clamp_min(1)}

    def features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        tiles = llava.get_image_features(pixel_values=pictures["pixel_values"], return_dict=True).pooler_output
        return [each.flatten(0, 1) for each in tiles.split(_tiles(pictures))]

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> tuple[int, int] | None:
        return None if all(count == 1 for count in _tiles(pictures)) else (1, 0)

    def patch_side(self, config: Any) -> int:
        return config.vision_config.patch_size[0] * _merged(config)

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return SquaresOfTiles(_tiles(pictures), _merged(llava.config))

    def take(self, pictures: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        counts = _tiles(pictures)
        tiles = pictures["pixel_values"].split(counts)
        chosen = torch.tensor([counts[row] for row in rows], device=pictures["pixel_values"].device)
        return {"pixel_values": torch.cat([tiles[row] for row in rows]), "num_patches": chosen}


def _tiles(pictures: Mapping[str, Any]) -> list[int]:
    """The number of tiles of each picture; where it is unknown, all are those of one."""
    if "num_patches" not in pictures:
        return [len(pictures["pixel_values"])] if "pixel_values" in pictures else []
    return torch.as_tensor(pictures["num_patches"]).tolist()


def _merged(config: Any) -> int:
    """How many patches become one visual token, on each side."""
    return int(1 / config.downsample_ratio)
