"""Cutting the rows x cols grid of visual tokens into rectangular cells: pure functions of integers, on the CPU."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tokensel.errors import TokenselError


class Box(NamedTuple):
    """A rectangle of tokens: rows top .. bottom - 1, columns left .. right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def spread(self) -> int:
        """12 times the sum of squared distances of the tokens to the middle of the box."""
        height, width = self.bottom - self.top, self.right - self.left
        return height * width * (height**2 + width**2 - 2)


def grid_cells(rows: int, cols: int, kept: int) -> Tensor:
    """The cell of every token of a rows x cols grid: LongTensor[rows * cols], from 0 to kept - 1 in reading order.

    Exactly `kept` non-empty rectangles, as square and as even as bands of rows that are each cut into columns allow;
    64 on 24 x 24 gives 8 x 8. kept >= rows * cols gives every token its own cell.

    Raises TokenselError for rows, cols or kept < 1.
    """
    cells = torch.empty(rows, cols, dtype=torch.long)
    for cell, box in enumerate(_boxes(rows, cols, kept)):
        cells[box.top : box.bottom, box.left : box.right] = cell
    return cells.flatten()


def cell_centers(rows: int, cols: int, kept: int) -> Tensor:
    """The middle token of every cell of grid_cells: LongTensor[min(kept, rows * cols)], ascending within a band.

    Where two tokens are as near to the middle, the upper or left one. Raises TokenselError as grid_cells does.
    """
    boxes = _boxes(rows, cols, kept)
    return torch.tensor([(b.top + b.bottom - 1) // 2 * cols + (b.left + b.right - 1) // 2 for b in boxes])


@lru_cache
def _boxes(rows: int, cols: int, kept: int) -> tuple[Box, ...]:
    """The cells in reading order, with as many bands as keep the tokens nearest to the middles of their cells."""
    for key, value in (("rows", rows), ("cols", cols), ("kept", kept)):
        if value < 1:
            raise TokenselError(f"{key}={value}: must be at least 1")
    kept = min(kept, rows * cols)
    possible = range(-(-kept // cols), min(rows, kept) + 1)
    return min((_banded(rows, cols, kept, bands) for bands in possible), key=lambda boxes: sum(b.spread for b in boxes))


def _banded(rows: int, cols: int, kept: int, bands: int) -> tuple[Box, ...]:
    """The cells of `bands` bands, each as high as its share of the cells and at least one row."""
    boxes: list[Box] = []
    bottom = 0
    for band in range(1, bands + 1):
        cells = band * kept // bands - len(boxes)
        fair = (2 * rows * (len(boxes) + cells) + kept) // (2 * kept)
        top, bottom = bottom, max(bottom + 1, fair)
        boxes += [Box(top, bottom, i * cols // cells, (i + 1) * cols // cells) for i in range(cells)]
    return tuple(boxes)
