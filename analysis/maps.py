"""Draws survivors on a picture: the kept visual tokens bright, and below them what each centroid gathers."""

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from analysis.survivors import Survivors

# More maps than this under one picture are too small to see.
MAX_MAPS = 64
# Up to so many survivors carry their number.
MAX_NUMBERS = 36
_DIMMED = 0.35
# Inches of a cell's side, and the colour that marks a centroid's own token in its map.
_CELL = 4.2
_OWN = (64, 224, 255)
HEAT = matplotlib.colormaps["inferno"]
GATHERED = {
    "cross_attention": "gathers by cross-attention",
    "mean": "carries the mean of its nearest tokens",
    "own": "carries values of the method's own making",
    "none": "carries its own state, gathers nothing",
}


def dim_others(picture: np.ndarray, positions: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """The picture, uint8 [H, W, 3], with all but the visual tokens at positions darkened. grid: rows and columns."""
    kept = np.zeros(grid[0] * grid[1], dtype=np.float32)
    kept[list(positions)] = 1
    bright = _spread(kept, grid, picture.shape[:2]) > 0.5
    return np.where(bright[..., None], picture, picture * _DIMMED).astype(np.uint8)


def heat(picture: np.ndarray, weights: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The picture, uint8 [H, W, 3], in grey under the weights [N] of its visual tokens, scaled to their maximum."""
    scaled = _spread(weights / max(float(weights.max()), 1e-12), grid, picture.shape[:2])
    grey = picture.mean(2, keepdims=True) / 255
    return (255 * (0.3 * grey + 0.7 * HEAT(scaled)[..., :3])).astype(np.uint8)


def _spread(values: np.ndarray, grid: tuple[int, int], size: tuple[int, ...]) -> np.ndarray:
    """Values [N] of a grid of visual tokens as an array of the picture's size [H, W]."""
    laid = Image.fromarray(np.asarray(values, dtype=np.float32).reshape(grid))
    return np.asarray(laid.resize((size[1], size[0]), Image.Resampling.NEAREST))


def montage(picture: np.ndarray, survivors: Survivors, grid: tuple[int, int], side: int = 112) -> np.ndarray:
    """Every survivor's gathered weights over a small copy of the picture, its own token outlined: uint8 [h, w, 3].

    Reading order is the order of the survivors; at most MAX_MAPS of them. side: of a copy, in pixels.
    """
    assert survivors.weights is not None
    small = np.asarray(Image.fromarray(picture).resize((side, side)))
    count = min(len(survivors.positions), MAX_MAPS)
    columns = columns_of(count)
    sheet = np.full((math.ceil(count / columns) * (side + 4), columns * (side + 4), 3), 255, dtype=np.uint8)
    for place in range(count):
        tile = heat(small, survivors.weights[place], grid)
        _outline(tile, survivors.positions[place], grid)
        top, left = place // columns * (side + 4) + 2, place % columns * (side + 4) + 2
        sheet[top : top + side, left : left + side] = tile
    return sheet


def columns_of(count: int) -> int:
    """Columns of a sheet of `count` maps: four for few, eight for many."""
    return 4 if count <= 8 else 8


def _outline(tile: np.ndarray, position: int, grid: tuple[int, int]) -> None:
    """Draws a token's border into the tile."""
    rows = np.linspace(0, tile.shape[0], grid[0] + 1).round().astype(int)
    columns = np.linspace(0, tile.shape[1], grid[1] + 1).round().astype(int)
    row, column = divmod(position, grid[1])
    framed = tile[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
    framed[[0, -1]] = framed[:, [0, -1]] = _OWN


def survivors_figure(
    picture: np.ndarray, table: Sequence[Sequence[Survivors]], grid: tuple[int, int], title: str, dpi: int = 110
) -> bytes:
    """One PNG of every method (columns) at every kept (rows): survivors on the picture, their gathered weights below.

    picture: uint8 [H, W, 3] as the model sees it. table: rows of Survivors. title: shown as it is, above everything.
    """
    # As tall as its tallest sheet of maps, so that no row stands in empty space.
    heights = [max(map(_sheet_height, line)) for line in table]
    figure = Figure(
        figsize=(_CELL * len(table[0]), 1.1 + sum(_CELL + 0.5 + height for height in heights)),
        layout="constrained",
        facecolor="white",
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    outer = figure.add_gridspec(len(table), len(table[0]), height_ratios=[_CELL + 0.5 + height for height in heights])
    for row, line in enumerate(table):
        for column, survivors in enumerate(line):
            cell = GridSpecFromSubplotSpec(2, 1, outer[row, column], height_ratios=(_CELL, heights[row]))
            _draw_survivors(figure.add_subplot(cell[0]), picture, survivors, grid)
            _draw_maps(figure.add_subplot(cell[1]), picture, survivors, grid)
    written = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(written, format="png", dpi=dpi)
    return written.getvalue()


def _sheet_height(survivors: Survivors) -> float:
    """Inches of a cell's sheet of maps, or of the line that says why there is none."""
    if survivors.weights is None:
        return 0.4
    count = min(len(survivors.positions), MAX_MAPS)
    return 0.3 + _CELL * math.ceil(count / columns_of(count)) / columns_of(count)


def _draw_survivors(axes: Axes, picture: np.ndarray, survivors: Survivors, grid: tuple[int, int]) -> None:
    axes.imshow(dim_others(picture, survivors.positions, grid))
    height, width = picture.shape[0] / grid[0], picture.shape[1] / grid[1]
    for number, position in enumerate(survivors.positions, start=1):
        row, column = divmod(position, grid[1])
        left, top = column * width - 0.5, row * height - 0.5
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="#E69F00", linewidth=1))
        if len(survivors.positions) <= MAX_NUMBERS:
            number_text = axes.text(left + width / 2, top + height / 2, str(number), fontsize=6.5, color="black")
            number_text.set(
                ha="center", va="center_baseline", path_effects=[withStroke(linewidth=1.6, foreground="white")]
            )
    axes.set_title(
        f"{survivors.point.method}, {len(survivors.positions)} kept before layer {survivors.layer}", fontsize=10
    )
    axes.set_xlabel(f"answers {survivors.answer!r}", fontsize=9, parse_math=False)
    _bare(axes)


def _draw_maps(axes: Axes, picture: np.ndarray, survivors: Survivors, grid: tuple[int, int]) -> None:
    told = GATHERED[survivors.gathers]
    if survivors.weights is None:
        axes.set_axis_off()
        axes.text(0.5, 1, f"each {told}", ha="center", va="top", fontsize=8.5, transform=axes.transAxes)
        return
    axes.imshow(montage(picture, survivors, grid))
    count = len(survivors.positions)
    shown = f"first {MAX_MAPS} of {count}" if count > MAX_MAPS else f"1 to {count}"
    axes.set_title(f"each {told}: {shown}", fontsize=8.5)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
