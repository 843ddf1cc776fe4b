"""Which pictures and videos a prompt has, from what a forward or `generate` is given."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tokensel.engine.deepstack import split_features
from tokensel.engine.state import Picture
from tokensel.errors import TokenselError
from tokensel.models.families import picture_arguments
from tokensel.models.parts import ModelParts
from tokensel.models.vision import VisionStates

# What a visual token is part of.
PICTURE, VIDEO = 1, 2


@dataclass(frozen=True)
class Seen:
    """arguments: pixel_values, pixel_values_videos and what goes with them. rows: prompts that they belong to; beams of
    one prompt share its pictures. given: whether there are pictures or videos; video: whether there are videos. Either
    may be there as the features that `generate` has already made of them."""

    arguments: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    given: bool = False
    video: bool = False

    @property
    def pixels(self) -> bool:
        """Whether the arguments hold pictures or videos. `generate` may drop these and keep what goes with them."""
        return self.picture or "pixel_values_videos" in self.arguments

    @property
    def picture(self) -> bool:
        """Whether the arguments hold pictures."""
        return "pixel_values" in self.arguments or "pixel_values_images" in self.arguments

    @property
    def per_row(self) -> int:
        """Pictures in each prompt; 1 where that is unknown."""
        return self._each("num_patches", "image_grid_thw", "pixel_values", "pixel_values_images")

    @property
    def videos_per_row(self) -> int:
        """Videos in each prompt; 1 where that is unknown."""
        return self._each("video_grid_thw", "pixel_values_videos")

    def _each(self, *names: str) -> int:
        entries = next((self.arguments[name] for name in names if name in self.arguments), None)
        return max(1, len(entries) // self.rows) if entries is not None and self.rows else 1


def find_pictures(given: Mapping[str, Any], parts: ModelParts) -> Seen:
    """The pictures and videos among a call's arguments."""
    arguments = picture_arguments(given)
    prompts = [given[name] for name in ("input_ids", "inputs", "inputs_embeds") if given.get(name) is not None]
    rows = len(prompts[0]) if prompts else 0
    if Seen(arguments).picture and prompts and prompts[0].ndim == 2:
        arguments |= parts.family.companions(prompts[0] == parts.image_token_id, arguments)
    encoded = given.get("mm_encoder_outputs") or {}
    video = "pixel_values_videos" in arguments or encoded.get("video") is not None
    return Seen(arguments, rows, Seen(arguments).picture or encoded.get("image") is not None or video, video)


def visual_kinds(parts: ModelParts, input_ids: Tensor, seen: Seen) -> Tensor:
    """What prompts' tokens are: PICTURE or VIDEO where they are visual tokens of one, else 0: [B, T]."""
    kinds = torch.eq(input_ids, parts.image_token_id or 0).to(torch.uint8)
    if seen.video and parts.family.videos:
        assert parts.llava is not None
        kinds = kinds + VIDEO * parts.family.video_tokens(parts.llava.config, input_ids)
    return kinds


def place_features(
    parts: ModelParts, embeds: Tensor, input_ids: Tensor | None, visual: Tensor, features: Any, seen: Seen
) -> tuple[Tensor, Tensor | None]:
    """Embeddings [B, T, D] with the features [N, D] of the pictures, and then of the videos, in their places; and the
    deepstack features that stood beside these, in the order of the sequence.

    visual: BoolTensor[B, T], where visual tokens are. Raises TokenselError where there are more or fewer features.
    """
    places, flat = visual, torch.cat(list(features)).to(embeds)
    if seen.video and input_ids is not None:
        assert parts.llava is not None
        video = torch.eq(input_ids.to(visual.device), parts.llava.config.video_token_id)
        places = visual | video  # a token that ends a video is among its features too
        of_video = video[places]
        if len(of_video) == len(flat):  # pictures and videos may alternate
            flat = flat[of_video.to(torch.uint8).sort(stable=True).indices.argsort()]
    if int(places.sum()) != len(flat):
        count = int(places.sum())
        raise TokenselError(f"input_ids: {count} image tokens, but the pictures give {len(flat)} visual tokens")
    tokens, deepstack = split_features(flat, embeds.shape[2])
    return embeds.masked_scatter(places.unsqueeze(-1), tokens), deepstack


def say_video(parts: ModelParts, seen: Seen) -> str | None:
    """Warns of a video that is not reduced, because its family's videos are not tested, and returns what it said."""
    if not seen.video or parts.family.videos:
        return None
    kind = getattr(getattr(parts.llava, "config", None), "model_type", None)
    reason = (
        f"pixel_values_videos: with model_type={kind} only the visual tokens of pictures are reduced, not a video's"
    )
    warnings.warn(reason, stacklevel=2)
    return reason


def row_pictures(
    parts: ModelParts, seen: Seen, visual_index: Tensor, kinds: Tensor | None = None
) -> tuple[Picture, ...]:
    """The pictures and videos that own the visual tokens at visual_index [B, N], the same in every row.

    kinds: see `visual_kinds`; None = all are pictures'.

    Raises TokenselError where rows differ in them, or it is unknown where one ends.
    """
    if kinds is None or not seen.video:
        return _pictures(parts, seen, visual_index)
    video = kinds.to(visual_index.device).gather(1, visual_index) == VIDEO
    if not bool((video == video[:1]).all()):
        raise TokenselError("pixel_values_videos: every row of a batch must have its pictures and videos in one order")
    videos = _videos(parts, seen, int(video[0].sum()))
    if bool(video.all()):
        return videos
    if bool(video.any()):
        return _interleaved(_pictures(parts, seen, visual_index[:, ~video[0]]), videos, video[0].tolist())
    return _pictures(parts, seen, visual_index)


def _interleaved(pictures: Sequence[Picture], videos: Sequence[Picture], video: list[bool]) -> tuple[Picture, ...]:
    """Pictures and videos in the order of their visual tokens. video: which of a row's visual tokens are a video's."""
    waiting, found, place = {False: list(pictures), True: list(videos)}, [], 0
    while place < len(video):
        found.append(waiting[video[place]].pop(0))
        place += found[-1].count
    return tuple(found)


def _videos(parts: ModelParts, seen: Seen, count: int) -> tuple[Picture, ...]:
    """Each row's videos, which have `count` visual tokens together."""
    assert parts.llava is not None
    if "pixel_values_videos" not in seen.arguments:
        raise TokenselError("mm_encoder_outputs: features do not show a video's frames; give pixel_values_videos too")
    grids = parts.family.video_grids(parts.llava.config, seen.arguments)
    each = seen.videos_per_row
    first = grids[:each]
    if any(grids[row : row + each] != first for row in range(0, len(grids), each)):
        raise TokenselError("pixel_values_videos: every row of a batch must hold videos of the same shapes")
    videos = [Picture(math.prod(grid), math.prod(grid), grid, entry) for entry, grid in enumerate(first)]
    if sum(video.count for video in videos) != count:
        shapes = ", ".join(" x ".join(map(str, grid)) for grid in first)
        raise TokenselError(
            f"pixel_values_videos: {count} visual tokens of videos per prompt, but their frames, rows and columns are "
            f"{shapes}; put text between videos, and one video token for each"
        )
    return tuple(videos)


def _pictures(parts: ModelParts, seen: Seen, visual_index: Tensor) -> tuple[Picture, ...]:
    """The pictures that own the visual tokens at visual_index [B, N]."""
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
    return tuple(replace(picture, entry=entry) for entry, picture in enumerate(pictures))


def row_vision(vision: VisionStates | None, seen: Seen, batch: int) -> VisionStates | None:
    """What the tower saw, for `batch` prompts: beams of one prompt share its pictures, which stand together."""
    if vision is None or not seen.rows or batch == seen.rows:
        return vision
    order = torch.arange(batch, device=vision.device) // (batch // seen.rows)
    each = seen.videos_per_row if seen.video else seen.per_row
    pictures = torch.arange(each, device=vision.device)
    return vision.rows((order[:, None] * each + pictures).flatten())
