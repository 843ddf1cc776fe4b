"""Idefics3 and SmolVLM: tiles of a picture, separated by text tokens."""

from collections.abc import Mapping
from typing import Any

from tokensel.models.arrangement import Arrangement, SquaresOfTiles
from tokensel.models.families.tiled import Tiled


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
        # Tiles that are all zero are padding.
        real = (pictures["pixel_values"].flatten(2) != 0).any(2)
        return SquaresOfTiles(real.sum(1).tolist(), llava.config.scale_factor)
