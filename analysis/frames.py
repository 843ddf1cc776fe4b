"""Lays the frames of a video out as one picture, so that whatever is drawn on a picture can be drawn on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

# Frames in a line: of up to 4 all, of up to 16 four, else eight.
_FEW, _SOME, _MANY = 4, 16, 8
_LARGEST_BLOCK = 224  # pixels of a frame's longer side


@dataclass(frozen=True)
class Sheet:
    """A video's frames in lines, from left to right and from top to bottom.

    Parameters:
        frames, rows, columns: of the video's visual tokens, which stand frame by frame and row by row. One row of a
            square number and one more is a square with a [CLS] token before it, as in Video-LLaVA: the [CLS] is drawn
            above its frame, in a line of its own
    """

    frames: int
    rows: int
    columns: int

    @property
    def _side(self) -> int | None:
        """Of a frame's square behind its [CLS]; None without one."""
        side = math.isqrt(self.columns - 1)
        return side if self.rows == 1 and side > 1 and side * side == self.columns - 1 else None

    @property
    def frame_grid(self) -> tuple[int, int]:
        """Rows and columns of one frame's patches."""
        return (self._side, self._side) if self._side else (self.rows, self.columns)

    @property
    def count(self) -> int:
        """The number of visual tokens."""
        return self.frames * self.rows * self.columns

    @property
    def across(self) -> int:
        """How many frames stand in a line."""
        return self.frames if self.frames <= _FEW else _FEW if self.frames <= _SOME else _MANY

    @property
    def _block(self) -> tuple[int, int]:
        """Rows and columns that a frame takes, with the line of its [CLS]."""
        rows, columns = self.frame_grid
        return rows + (self._side is not None), columns

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the whole sheet."""
        rows, columns = self._block
        return math.ceil(self.frames / self.across) * rows, self.across * columns

    def places(self, positions: Sequence[int]) -> list[int]:
        """Where visual tokens are on the sheet, as indices into its grid, row by row."""
        return self._cells[list(positions)].tolist()

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """Weights [M, N] of the video's visual tokens as weights of the sheet's cells, 0 where it shows no token."""
        drawn = np.zeros((len(weights), math.prod(self.grid)), weights.dtype)
        drawn[:, self._cells] = weights
        return drawn

    @property
    def _cells(self) -> np.ndarray:
        """The cell of each visual token: [N]."""
        frame, token = np.divmod(np.arange(self.count), self.rows * self.columns)
        rows, columns = self._block
        above = np.zeros_like(token)
        if self._side:
            above[token > 0] = 1  # the [CLS] is token 0, and the first cell of the block
            token = np.maximum(token - 1, 0)
        row, column = np.divmod(token, self.frame_grid[1])
        line, place = np.divmod(frame, self.across)
        return (line * rows + row + above) * self.grid[1] + place * columns + column

    def draw(self, frames: Sequence[Image.Image]) -> Image.Image:
        """The frames in their places, each cut to its grid's shape. More frames than the grid has are left out evenly:
        some models read two frames as one."""
        rows, columns = self.frame_grid
        cell = max(1, min(_LARGEST_BLOCK, *frames[0].size) // max(rows, columns))
        sheet = Image.new("RGB", (self.grid[1] * cell, self.grid[0] * cell), "white")
        step = math.ceil(len(frames) / self.frames)
        for index, frame in enumerate(frames[::step][: self.frames]):
            line, place = divmod(index, self.across)
            top = (line * self._block[0] + self._block[0] - rows) * cell
            fitted = ImageOps.fit(frame, (columns * cell, rows * cell))
            sheet.paste(_with_edge(fitted), (place * columns * cell, top))
        return sheet


def _with_edge(frame: Image.Image) -> Image.Image:
    """The frame with a white edge, which parts it from the next one."""
    edge = max(1, min(frame.size) // 56)
    inner = frame.crop((edge, edge, frame.width - edge, frame.height - edge))
    return ImageOps.expand(inner, edge, "white")


def contact_sheet(frames: Sequence[Image.Image]) -> Image.Image:
    """The frames as one picture, where no visual tokens are drawn on it."""
    width, height = frames[0].size
    factor = min(1.0, _LARGEST_BLOCK / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    across = Sheet(len(frames), 1, 1).across
    sheet = Image.new("RGB", (across * size[0], math.ceil(len(frames) / across) * size[1]), "white")
    for index, frame in enumerate(frames):
        sheet.paste(_with_edge(frame.resize(size)), (index % across * size[0], index // across * size[1]))
    return sheet
