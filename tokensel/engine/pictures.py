"""Which pictures a prompt has, from what a forward or `generate` is given."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokensel.engine.state import Picture
from tokensel.errors import TokenselError
from tokensel.models.families import picture_arguments
from tokensel.models.parts import ModelParts
from tokensel.models.vision import VisionStates


@dataclass(frozen=True)
class Seen:
    """arguments: pixel_values and what goes with it. rows: prompts that they belong to; beams of one prompt share its
    pictures. given: whether there are pictures, be it as the features that `generate` has already made of them."""

    arguments: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    given: bool = False

    @property
    def per_row(self) -> int:
        """Pictures in each prompt; 1 where that is unknown."""
        names = ("num_patches", "image_grid_thw", "pixel_values")
        entries = next((self.arguments[name] for name in names if name in self.arguments), None)
        return max(1, len(entries) // self.rows) if entries is not None and self.rows else 1


def find_pictures(given: Mapping[str, Any], parts: ModelParts) -> Seen:
    """The pictures among a call's arguments."""
    arguments = picture_arguments(given)
    prompts = [given[name] for name in ("input_ids", "inputs", "inputs_embeds") if given.get(name) is not None]
    rows = len(prompts[0]) if prompts else 0
    if arguments and prompts and prompts[0].ndim == 2:
        arguments |= parts.family.companions(prompts[0] == parts.image_token_id, arguments)
    encoded = given.get("mm_encoder_outputs") or {}
    return Seen(arguments, rows, bool(arguments) or encoded.get("image") is not None)


def say_video(given: Mapping[str, Any]) -> str | None:
    """Warns of a video, which nothing here reduces, and returns what it said."""
    encoded = given.get("mm_encoder_outputs") or {}
    if given.get("pixel_values_videos") is None and encoded.get("video") is None:
        return None
    reason = "pixel_values_videos: a video's visual tokens are not reduced, only those of pictures"
    warnings.warn(reason, stacklevel=2)
    return reason


def row_pictures(parts: ModelParts, seen: Seen, visual_index: Tensor) -> tuple[Picture, ...]:
    """The pictures that own the visual tokens at visual_index [B, N], the same in every row.

    Raises TokenselError where rows differ in them, or it is unknown where one picture ends.
    """
    count = visual_index.shape[1]
    if parts.llava is None or seen.per_row == 1:
        grid = None if parts.llava is None else parts.family.grid(parts.llava.config, seen.arguments)
        return (Picture(count, count, grid),)
    pictures: list[Picture] = []
    if "image_grid_thw" in seen.arguments:
        merged = parts.llava.config.vision_config.spatial_merge_size
        shapes = (seen.arguments["image_grid_thw"][:, 1:] // merged).view(seen.rows, seen.per_row, 2)
        if not bool((shapes == shapes[:1]).all()):
            raise TokenselError("image_grid_thw: every row of a batch must hold pictures of the same shapes")
        pictures = [Picture(rows * cols, rows * cols, (rows, cols)) for rows, cols in shapes[0].tolist()]
    elif parts.family.fixed_size and count % seen.per_row == 0:
        pictures = [Picture(count // seen.per_row, count // seen.per_row)] * seen.per_row
    else:  # each picture's tokens stand together, with text between two pictures
        steps = visual_index.diff(dim=1) != 1
        ends = [*(steps[0].nonzero()[:, 0] + 1).tolist(), count]
        if bool((steps == steps[:1]).all()):
            pictures = [Picture(end - begin, end - begin, (1, 0)) for begin, end in zip([0, *ends], ends, strict=False)]
    if len(pictures) != seen.per_row or sum(picture.count for picture in pictures) != count:
        raise TokenselError(
            f"pixel_values: {seen.per_row} pictures per prompt, but it is unknown to which of them each of the {count} "
            "visual tokens belongs; put text between pictures, and pictures of the same shapes in every row"
        )
    return tuple(pictures)


def row_vision(vision: VisionStates | None, seen: Seen, batch: int) -> VisionStates | None:
    """What the tower saw, for `batch` prompts: beams of one prompt share its pictures, which stand together."""
    if vision is None or not seen.rows or batch == seen.rows:
        return vision
    order = torch.arange(batch, device=vision.device) // (batch // seen.rows)
    pictures = torch.arange(seen.per_row, device=vision.device)
    return vision.rows((order[:, None] * seen.per_row + pictures).flatten())
