"""A video, and the frames of it that a model sees."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tokensel.data.picture import Picture, read_picture
from tokensel.data.video_file import read_frames
from tokensel.errors import BadSampleError, TokenselError

#: Frames of a video that are shown to a model unless a question says otherwise.
FRAMES = 8


@dataclass(frozen=True)
class Video:
    """A video, opened only when its frames are asked for.

    Parameters:
        source: a video file; a folder, whose pictures are the frames in natural order (frame2 before frame10); or the
            frames themselves, each a PIL image, a path, or a function without arguments that returns an image

    Raises TokenselError for an empty sequence of frames.
    """

    source: str | Path | Sequence[Picture]

    def __post_init__(self) -> None:
        if isinstance(self.source, str | Path):
            return
        object.__setattr__(self, "source", tuple(self.source))
        if not self.source:
            raise TokenselError("video=[]: has no frames; give a file, a folder of frames, or at least one picture")

    @property
    def is_file(self) -> bool:
        """Whether the frames are read by a video decoder."""
        return isinstance(self.source, str | Path) and not os.path.isdir(self.source)

    def load_frames(self, count: int) -> list[Image.Image]:
        """At most `count` frames in RGB, chosen by `uniform_indices`; all frames have one size.

        Raises BadSampleError, without a question's id, for a video that is missing, broken or without frames, and for
        frames of several sizes; TokenselError if it is a file and no decoder is installed.
        """
        if not isinstance(self.source, str | Path):
            frames = self._chosen(self.source, count)
        elif os.path.isdir(self.source):
            frames = self._chosen(_frame_files(Path(self.source)), count)
        else:
            frames = read_frames(Path(self.source), lambda total: uniform_indices(total, count))
        sizes = sorted({frame.size for frame in frames})
        if len(sizes) > 1:
            some = " and ".join(f"{width} x {height}" for width, height in sizes[:2])
            raise BadSampleError(f"{self}: has frames of {some} pixels; all must have one size")
        return frames

    def _chosen(self, frames: Sequence[Picture], count: int) -> list[Image.Image]:
        try:
            return [read_picture(frames[index], "frame") for index in uniform_indices(len(frames), count)]
        except BadSampleError as error:
            raise BadSampleError(f"{self}: {error}") from error.__cause__

    def __str__(self) -> str:
        return f"video {self.source if isinstance(self.source, str | Path) else 'in memory'}"


def uniform_indices(total: int, count: int) -> list[int]:
    """The indices of `count` of `total` frames, equally spaced from the first to the last; all if there are not more.

    As LLaVA-Video and lmms-eval choose them: numpy.linspace(0, total - 1, count), rounded down. One of several is the
    first.
    """
    if total <= count:
        return list(range(total))
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def _frame_files(folder: Path) -> list[Path]:
    """The folder's pictures in natural order; other files and hidden ones are ignored."""
    suffixes = Image.registered_extensions()
    files = [file for file in folder.iterdir() if file.suffix.lower() in suffixes and not file.name.startswith(".")]
    if not files:
        raise BadSampleError(f"video {folder}: the folder has no pictures")
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    """A sort key that compares numbers in names as numbers."""
    parts = re.split(r"([0-9]+)", file.name)
    # Texts and numbers alternate, so that equal places hold equal types.
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], file.name
