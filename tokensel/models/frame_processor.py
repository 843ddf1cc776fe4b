"""Prepares the frames of videos with PIL, with the settings of a checkpoint's video processor.

transformers' own video processors require torchvision, whose resizing rounds differently than PIL's; pictures are
prepared with PIL too.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_utils import VideoMetadata

# Frames count as two a second, the rate at which Qwen-VL's own code samples: a question's frames have no times.
FRAMES_PER_SECOND = 2.0
# Of Qwen2-VL's video processor, whose module requires torchvision.
_QWEN2: dict[str, Any] = {
    "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "max_video_tokens": 128000,
}
_OF_PICTURES = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)
Frames = Sequence[Image.Image]


class FrameProcessor:
    """Stands in for the video part of a processor.

    settings: of the checkpoint's video processor. kind: that class, where it can be imported.
    """

    def __init__(self, settings: Mapping[str, Any], kind: Any | None) -> None:
        own = {name: getattr(kind, name) for name in (*_OF_PICTURES, *_QWEN2) if hasattr(kind, name)}
        self._settings: dict[str, Any] = (own if kind is not None else dict(_QWEN2)) | dict(settings)
        self.merge_size: Any = self._settings.get("merge_size")
        self.temporal_patch_size: Any = self._settings.get("temporal_patch_size")
        # Qwen3-VL's bounds are for all frames together.
        module = None if kind is None or self.merge_size is None else importlib.import_module(kind.__module__)
        resize = getattr(module, "smart_resize", None)
        self._size_of_all = resize if resize and "num_frames" in inspect.signature(resize).parameters else None
        self._one_frame = self._make()

    def _make(self) -> Any:
        given = {name: value for name, value in self._settings.items() if name in _OF_PICTURES and value is not None}
        if self.merge_size is None:
            return CLIPImageProcessorPil(**given | {"do_center_crop": bool(given.get("do_center_crop"))})
        given = {name: value for name, value in given.items() if name not in ("do_center_crop", "crop_size")}
        given |= {name: self._settings[name] for name in ("patch_size", "merge_size")}
        bounds = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
        older = {edge: self._settings[name] for edge, name in bounds.items() if self._settings.get(name) is not None}
        given["size"] = dict(self._settings["size"]) | older
        self._bounds = given["size"]
        return Qwen2VLImageProcessorPil(**given, temporal_patch_size=1)

    def __call__(self, videos: Sequence[Frames], **kwargs: Any) -> BatchFeature:
        """pixel_values_videos, for Qwen-VL also video_grid_thw, and the times of frames. videos: of one shape each.

        Raises ValueError for frames that cannot be prepared.
        """
        made = [self._frames(video) for video in videos]
        times = [
            VideoMetadata(len(video), FRAMES_PER_SECOND, frames_indices=list(range(len(video)))) for video in videos
        ]
        if self.merge_size is None:
            return BatchFeature({"pixel_values_videos": torch.stack(made), "video_metadata": times})
        shapes = [(len(frames), *self._rows_and_columns(video)) for frames, video in zip(made, videos, strict=True)]
        pixels = torch.cat([frames.flatten(0, 1) for frames in made])
        grids = torch.tensor(shapes)
        return BatchFeature({"pixel_values_videos": pixels, "video_grid_thw": grids, "video_metadata": times})

    def _frames(self, video: Frames) -> torch.Tensor:
        """[frames, 3, H, W]; of Qwen-VL patches of pairs of frames, [pairs, patches, C]."""
        if self.merge_size is None:
            return self._one_frame(images=list(video), return_tensors="pt")["pixel_values"]
        more = -len(video) % self.temporal_patch_size
        frames, options = [*video, *[video[-1]] * more], self._resizing(video)
        if "do_resize" in options:
            size = self._pixels(video)
            frames = [frame.resize(size, Image.Resampling.BICUBIC) for frame in frames]
        made = self._one_frame(images=frames, return_tensors="pt", **options)
        side = self._settings["patch_size"] ** 2
        patches = made["pixel_values"].unflatten(0, (len(frames), -1)).unflatten(2, (-1, side))  # [F, P, 3, side]
        together = patches.unflatten(0, (-1, self.temporal_patch_size)).permute(0, 2, 3, 1, 4)
        return together.flatten(2)

    def _resizing(self, video: Frames) -> dict[str, Any]:
        """Options of the picture processor, where the size of frames depends on their number."""
        if self._size_of_all is not None:
            return {"do_resize": False}
        if not self._settings.get("cap_pixels_per_frame"):
            return {}
        pixels = int(self._settings["max_video_tokens"] * self._factor**2 * 0.9)
        share = pixels * self.temporal_patch_size // len(video)
        most = max(min(self._bounds["longest_edge"], share), int(self._bounds["shortest_edge"] * 1.05))
        return {"size": self._bounds | {"longest_edge": most}}

    @property
    def _factor(self) -> int:
        return self._settings["patch_size"] * self.merge_size

    def _pixels(self, video: Frames) -> tuple[int, int]:
        """Width and height to which Qwen3-VL resizes the frames."""
        assert self._size_of_all is not None
        width, height = video[0].size
        least, most, number = self._bounds["shortest_edge"], self._bounds["longest_edge"], len(video)
        if self._settings.get("cap_pixels_per_frame"):
            share = min(self._settings["max_video_tokens"] * self._factor**2, most // number)
            most = max(share, int(least * 1.05)) * number
        bounds = {"min_pixels": least, "max_pixels": most, "factor": self._factor}
        bounds["temporal_factor"] = self.temporal_patch_size
        rows, cols = self._size_of_all(max(number, self.temporal_patch_size), height, width, **bounds)
        return cols, rows

    def _rows_and_columns(self, video: Frames) -> tuple[int, int]:
        """Of a frame's patches."""
        if self._size_of_all is not None:
            width, height = self._pixels(video)
            return height // self._settings["patch_size"], width // self._settings["patch_size"]
        grid = self._one_frame(images=[video[0]], return_tensors="pt", **self._resizing(video))["image_grid_thw"]
        return int(grid[0, 1]), int(grid[0, 2])


def load_frame_processor(source: str, model_type: str, hub: dict[str, Any]) -> FrameProcessor:
    """The video part of a processor. source: a folder or hub id. hub: keyword arguments of every from_pretrained."""
    kind = _video_class(model_type)
    reader: Any = kind or _video_class("llava_onevision")
    try:
        settings = reader.get_video_processor_dict(source, **hub)[0]
    except OSError:
        settings = {}
    return FrameProcessor(settings, kind)


def _video_class(model_type: str) -> Any | None:
    """A family's own video processor class; None where importing it requires torchvision, as Qwen2-VL's does."""
    try:
        module = importlib.import_module(f"transformers.models.{model_type}.video_processing_{model_type}")
    except ImportError:
        return None
    return getattr(module, module.__all__[0])
