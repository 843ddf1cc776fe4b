"""LLaVA-NeXT and LLaVA-OneVision: an overview of the picture and tiles of it."""

from collections.abc import Mapping
from typing import Any

from tokensel.models.arrangement import Arrangement, PackedTiles
from tokensel.models.families.base import Family


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
