"""Division of the rows x cols grid of visual tokens into rectangular cells: pure functions of integers, on the CPU."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tokensel.errors import TokenselError


class Box(NamedTuple):
    """A rectangle of tokens: grid rows top .. bottom - 1, columns left .. right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def spread(self) -> int:
        """12 times the sum of the squared distances of the tokens from the middle of the box."""
        height, width = self.bottom - self.top, self.right - self.left
        return height * width * (height**2 + width**2 - 2)


def grid_cells(rows: int, cols: int, kept: int) -> Tensor:
    """The cell of every token of a rows x cols grid: LongTensor[rows * cols], cells 0 .. kept - 1 in reading order.

    The grid is divided into bands of rows and each band into columns, so that the `kept` non-empty rectangles are as
    square and as even as possible; kept=64 on 24 x 24 gives 8 x 8 cells. kept >= rows * cols gives every token its own
    cell.

    Raises TokenselError for rows, cols or kept < 1.
    """
    cells = torch.empty(rows, cols, dtype=torch.long)
    for cell, box in enumerate(_boxes(rows, cols, kept)):
        cells[box.top : box.bottom, box.left : box.right] = cell
    return cells.flatten()


def cell_centers(rows: int, cols: int, kept: int) -> Tensor:
    """The middle token of every cell of `grid_cells`: LongTensor[min(kept, rows * cols)], in the order of the cells.

    If two tokens are equally near to the middle, it is the upper or left one. Raises TokenselError as `grid_cells`
    does.
    """
    boxes = _boxes(rows, cols, kept)
    return torch.tensor([(b.top + b.bottom - 1) // 2 * cols + (b.left + b.right - 1) // 2 for b in boxes])


@lru_cache
def _boxes(rows: int, cols: int, kept: int) -> tuple[Box, ...]:
    """The cells in reading order, with the number of bands for which tokens are nearest to the middle of their cell."""
    for key, value in (("rows", rows), ("cols", cols), ("kept", kept)):
        if value < 1:
            raise TokenselError(f"{key}={value}: must be at least 1")
    kept = min(kept, rows * cols)
    possible = range(-(-kept // cols), min(rows, kept) + 1)
    return min((_banded(rows, cols, kept, bands) for bands in possible), key=lambda boxes: sum(b.spread for b in boxes))


def _banded(rows: int, cols: int, kept: int, bands: int) -> tuple[Box, ...]:
    """The cells of `bands` bands. A band's height follows its share of the cells and is at least 1."""
    boxes: list[Box] = []
    bottom = 0
    for band in range(1, bands + 1):
        cells = band * kept // bands - len(boxes)
        fair = (2 * rows * (len(boxes) + cells) + kept) // (2 * kept)
        top, bottom = bottom, max(bottom + 1, fair)
        boxes += [Box(top, bottom, i * cols // cells, (i + 1) * cols // cells) for i in range(cells)]
    return tuple(boxes)
