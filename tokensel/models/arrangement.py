"""From a vision tower's patches to the visual tokens that a decoder gets of them, family by family.

A tower sees tiles of patches; the decoder gets them cut, merged and joined by newline tokens. The arrangements here do
to numbers of each patch (attention, keys) what the models do to its features.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


class Arrangement:
    """How the pictures of one call become visual tokens. This one: every picture is a tile, its patches the tokens.

    spans: where each picture's states begin and end along the first axis of what enters a layer of the tower.
    """

    spans: list[tuple[int, int]]

    def __init__(self, pictures: Mapping[str, Any]) -> None:
        self.spans = _spans([1] * len(pictures["pixel_values"]))

    def tokens(self, values: Tensor, picture: int) -> Tensor:
        """Values of a picture's patches [tiles, P, C] as values of its visual tokens: [N, C]."""
        return values.flatten(0, 1)

    def full_layers(self, depth: int) -> Sequence[int]:
        """The layers of the tower in which every patch of a tile sees all others, ascending."""
        return range(depth)

    def frames(self, picture: int) -> int:
        """Into how many equal parts, which do not see each other, a tower without tiles cuts a picture."""
        return 1


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(torch.tensor([0, *sizes]).cumsum(0).tolist()))


class PackedTiles(Arrangement):
    """LLaVA-NeXT and LLaVA-OneVision: an overview, then the tiles' patches row by row, without padding, resized where
    they are too many. A newline token, which ends a row, is no patch: its values are 0."""

    def __init__(self, llava: Any, pictures: Mapping[str, Any]) -> None:
        # Here, because it imports the model's code, which other families do not need.
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        self._llava, self._sizes = llava, pictures["image_sizes"]
        config, together = llava.config, pictures.get("batch_num_images")
        alone = [True] * len(self._sizes)
        if together is not None:
            alone = [count == 1 for count in together.tolist() for _ in range(count)]
        side = config.vision_config.image_size
        counts = [
            image_size_to_num_patches(size, config.image_grid_pinpoints, side) if single else 1
            for size, single in zip(self._sizes.tolist(), alone, strict=True)
        ]
        self.spans = _spans(counts)

    def tokens(self, values: Tensor, picture: int) -> Tensor:
        config, newline = self._llava.config, values.new_zeros(values.shape[-1])
        if hasattr(config, "vision_aspect_ratio"):
            options = {"vision_aspect_ratio": config.vision_aspect_ratio}
        else:
            options = {"vision_feature_select_strategy": config.vision_feature_select_strategy}
        sizes = self._sizes[picture : picture + 1]
        packed, _ = self._llava.pack_image_features([values], sizes, image_newline=newline, **options)
        return packed[0]


class Frames(Arrangement):
    """Videos whose frames are tiles. tokens: values of patches [tiles, P, C] as values of each tile's visual tokens,
    [tiles, N, C]."""

    def __init__(self, pictures: Mapping[str, Any], tokens: Callable[[Tensor], Tensor]) -> None:
        videos, frames = pictures["pixel_values_videos"].shape[:2]
        self.spans, self._tokens = _spans([frames] * videos), tokens

    def tokens(self, values: Tensor, picture: int) -> Tensor:
        return self._tokens(values).flatten(0, 1)


class SquaresOfTiles(Arrangement):
    """Idefics3, SmolVLM, InternVL and Gemma 3: a visual token is a square of patches of one tile.

    tiles: how many each picture has. side: patches on each side of a square.
    """

    def __init__(self, tiles: Sequence[int], side: int) -> None:
        self._side = side
        self.spans = _spans(tiles)

    def tokens(self, values: Tensor, picture: int) -> Tensor:
        side, scale = math.isqrt(values.shape[1]), self._side
        squares = values.unflatten(1, (side // scale, scale, side // scale, scale))
        return squares.mean((2, 4)).flatten(0, 2)


class MergedPatches(Arrangement):
    """Qwen2-VL and Qwen2.5-VL: a visual token is a square of patches, which stand together. In Qwen2.5-VL they stand
    window by window, and most layers see only their window."""

    def __init__(self, llava: Any, pictures: Mapping[str, Any]) -> None:
        self._config = llava.config.vision_config
        self._grids = pictures["image_grid_thw" if "image_grid_thw" in pictures else "video_grid_thw"].tolist()
        self.spans = _spans([math.prod(grid) for grid in self._grids])

    def tokens(self, values: Tensor, picture: int) -> Tensor:
        merged = values.flatten(0, 1).unflatten(0, (-1, self._config.spatial_merge_size**2)).mean(1)
        return merged[self._order(picture, len(merged)).argsort().to(merged.device)] if self._windowed else merged

    def frames(self, picture: int) -> int:
        return self._grids[picture][0]

    def full_layers(self, depth: int) -> Sequence[int]:
        return sorted(self._config.fullatt_block_indexes) if self._windowed else range(depth)

    @property
    def _windowed(self) -> bool:
        return hasattr(self._config, "fullatt_block_indexes")

    def _order(self, picture: int, count: int) -> Tensor:
        """The visual tokens in the order in which their patches stand in the tower. count: of some frames, or all."""
        _, rows, cols = self._grids[picture]
        rows, cols = rows // self._config.spatial_merge_size, cols // self._config.spatial_merge_size
        side = self._config.window_size // self._config.patch_size // self._config.spatial_merge_size
        down, across = torch.arange(rows) // side, torch.arange(cols) // side
        window = down.unsqueeze(1) * (cols // side + 1) + across
        frame = torch.arange(count // (rows * cols)) * (int(window.max()) + 1)
        return (frame[:, None, None] + window).flatten().argsort(stable=True)
