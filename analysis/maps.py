"""Draws the survivors of a reduction on their picture, and the weights with which each of them gathers tokens."""

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

MAX_MAPS = 64  # maps under one picture; more would be too small to read
MAX_NUMBERED = 36  # survivors of one picture that get a number; more numbers would overlap
_DIMMED = 0.35  # brightness of the tokens that were not kept
_CELL_INCHES = 4.2
_OWN_TOKEN = (64, 224, 255)  # colour that outlines a centroid's own token in its map
HEAT = matplotlib.colormaps["inferno"]
GATHERED = {
    "cross_attention": "gathers by cross-attention",
    "mean": "carries the mean of its nearest tokens",
    "own": "carries values that the method computes",
    "none": "carries its own state, gathers nothing",
}


def dim_others(picture: np.ndarray, positions: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """Darkens all visual tokens of a picture except those at `positions`.

    picture: uint8 [H, W, 3], and so is the result. grid: rows and columns of the visual tokens.
    """
    kept = np.zeros(grid[0] * grid[1], dtype=np.float32)
    kept[list(positions)] = 1
    bright = _spread(kept, grid, picture.shape[:2]) > 0.5
    return np.where(bright[..., None], picture, picture * _DIMMED).astype(np.uint8)


def heat(picture: np.ndarray, weights: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Draws the weights [N] of the visual tokens, relative to the largest, over a grey copy of the picture.

    picture: uint8 [H, W, 3], and so is the result. grid: rows and columns of the visual tokens.
    """
    scaled = _spread(weights / max(float(weights.max()), 1e-12), grid, picture.shape[:2])
    grey = picture.mean(2, keepdims=True) / 255
    return (255 * (0.3 * grey + 0.7 * HEAT(scaled)[..., :3])).astype(np.uint8)


def _spread(values: np.ndarray, grid: tuple[int, int], size: tuple[int, ...]) -> np.ndarray:
    """Enlarges values [N] of a grid of visual tokens to the picture's size [H, W]."""
    small = Image.fromarray(np.asarray(values, dtype=np.float32).reshape(grid))
    return np.asarray(small.resize((size[1], size[0]), Image.Resampling.NEAREST))


def montage(picture: np.ndarray, survivors: Survivors, grid: tuple[int, int], side: int = 112) -> np.ndarray:
    """Draws one small map for each of the first MAX_MAPS survivors, in their order: the weights that it gathers with.

    The survivor's own token is outlined. side: of a map, in pixels. Returns uint8 [h, w, 3].
    """
    assert survivors.weights is not None
    small = np.asarray(Image.fromarray(picture).resize((side, side)))
    count = min(len(survivors.positions), MAX_MAPS)
    columns = columns_of(count)
    sheet = np.full((math.ceil(count / columns) * (side + 4), columns * (side + 4), 3), 255, dtype=np.uint8)
    for index in range(count):
        tile = heat(small, survivors.weights[index], grid)
        _outline(tile, survivors.positions[index], grid)
        top, left = index // columns * (side + 4) + 2, index % columns * (side + 4) + 2
        sheet[top : top + side, left : left + side] = tile
    return sheet


def columns_of(count: int) -> int:
    """Returns the number of columns in which `count` maps are arranged."""
    return 4 if count <= 8 else 8


def _outline(tile: np.ndarray, position: int, grid: tuple[int, int]) -> None:
    """Draws the border of a visual token into the tile."""
    rows = np.linspace(0, tile.shape[0], grid[0] + 1).round().astype(int)
    columns = np.linspace(0, tile.shape[1], grid[1] + 1).round().astype(int)
    row, column = divmod(position, grid[1])
    token = tile[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
    token[[0, -1]] = token[:, [0, -1]] = _OWN_TOKEN


def survivors_figure(
    picture: np.ndarray, table: Sequence[Sequence[Survivors]], grid: tuple[int, int], title: str, dpi: int = 110
) -> bytes:
    """Draws a table of survivors as one PNG, with the maps of gathered weights below each picture.

    picture: uint8 [H, W, 3], as the model sees it. table: usually one line per kept and one column per method. title:
    plain text above the figure.
    """
    # Each line is as tall as its tallest maps need, so that no line has empty space below.
    heights = [max(map(_maps_height, line)) for line in table]
    figure = Figure(
        figsize=(_CELL_INCHES * len(table[0]), 1.1 + sum(_CELL_INCHES + 0.5 + height for height in heights)),
        layout="constrained",
        facecolor="white",
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    ratios = [_CELL_INCHES + 0.5 + height for height in heights]
    outer = figure.add_gridspec(len(table), len(table[0]), height_ratios=ratios)
    for row, line in enumerate(table):
        for column, survivors in enumerate(line):
            cell = GridSpecFromSubplotSpec(2, 1, outer[row, column], height_ratios=(_CELL_INCHES, heights[row]))
            _draw_survivors(figure.add_subplot(cell[0]), picture, survivors, grid)
            _draw_maps(figure.add_subplot(cell[1]), picture, survivors, grid)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _maps_height(survivors: Survivors) -> float:
    """Height in inches of a cell's maps, or of the text in their place if nothing is gathered."""
    if survivors.weights is None:
        return 0.4
    count = min(len(survivors.positions), MAX_MAPS)
    return 0.3 + _CELL_INCHES * math.ceil(count / columns_of(count)) / columns_of(count)


def _draw_survivors(axes: Axes, picture: np.ndarray, survivors: Survivors, grid: tuple[int, int]) -> None:
    axes.imshow(dim_others(picture, survivors.positions, grid))
    height, width = picture.shape[0] / grid[0], picture.shape[1] / grid[1]
    for number, position in enumerate(survivors.positions, start=1):
        row, column = divmod(position, grid[1])
        left, top = column * width - 0.5, row * height - 0.5
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="#E69F00", linewidth=1))
        if len(survivors.positions) <= MAX_NUMBERED:
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
    description = GATHERED[survivors.gathers]
    if survivors.weights is None:
        axes.set_axis_off()
        axes.text(0.5, 1, f"each {description}", ha="center", va="top", fontsize=8.5, transform=axes.transAxes)
        return
    axes.imshow(montage(picture, survivors, grid))
    count = len(survivors.positions)
    shown = f"first {MAX_MAPS} of {count}" if count > MAX_MAPS else f"1 to {count}"
    axes.set_title(f"each {description}: {shown}", fontsize=8.5)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
