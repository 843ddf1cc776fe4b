"""Draws the survivors of a reduction on their picture, and the weights with which each of them gathers tokens."""

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from analysis.survivors import Survivors, is_right

MAX_MAPS = 64  # maps under one picture; more would be too small to read
MAX_NUMBERED = 64  # survivors of one picture that get a number; more numbers would overlap
_DIMMED = 0.55  # brightness of the tokens that were not kept; they lose half of their colour as well
_CELL_INCHES = 4.2
_BAR_INCHES = 0.6
_RIGHT, _WRONG = "#11663f", "#a8321e"
_OWN_TOKEN = (64, 224, 255)  # colour that outlines a centroid's own token in its map
HEAT = matplotlib.colormaps["viridis"]
GATHERED = {
    "cross_attention": "gathers by cross-attention",
    "mean": "carries the mean of its nearest tokens",
    "own": "carries values that the method computes",
    "none": "carries its own state, gathers nothing",
}


def dim_others(picture: np.ndarray, positions: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """Darkens all visual tokens of a picture except those at `positions`, and takes half of their colour away.

    picture: uint8 [H, W, 3], and so is the result. grid: rows and columns of the visual tokens.
    """
    kept = np.zeros(grid[0] * grid[1], dtype=np.float32)
    kept[list(positions)] = 1
    bright = _spread(kept, grid, picture.shape[:2]) > 0.5
    dimmed = _DIMMED * (0.5 * picture + 0.5 * picture.mean(2, keepdims=True))
    return np.where(bright[..., None], picture, dimmed).astype(np.uint8)


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

    The survivor's own token is outlined. side: width of a map, in pixels. Returns uint8 [h, w, 3].
    """
    assert survivors.weights is not None
    height = map_height(picture, side)
    small = np.asarray(Image.fromarray(picture).resize((side, height)))
    count = min(len(survivors.positions), MAX_MAPS)
    columns = columns_of(count)
    sheet = np.full((math.ceil(count / columns) * (height + 4), columns * (side + 4), 3), 255, dtype=np.uint8)
    for index in range(count):
        tile = heat(small, survivors.weights[index], grid)
        _outline(tile, survivors.positions[index], grid)
        top, left = index // columns * (height + 4) + 2, index % columns * (side + 4) + 2
        sheet[top : top + height, left : left + side] = tile
    return sheet


def map_height(picture: np.ndarray, width: int) -> int:
    """Returns the height of a map of this width; maps of tall pictures are square."""
    return max(1, round(width * _aspect(picture)))


def _aspect(picture: np.ndarray) -> float:
    """Height over width, at most 1."""
    return min(1.0, picture.shape[0] / picture.shape[1])


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
    picture: np.ndarray,
    table: Sequence[Sequence[Survivors]],
    grid: tuple[int, int],
    title: str,
    full: str,
    correct: str | None = None,
    dpi: int = 140,
    whole_name: str = "the whole picture",
) -> bytes:
    """Draws a table of survivors as one PNG, the whole picture beside each line, the maps of gathered weights below.

    picture     uint8 [H, W, 3], as the model sees it
    table       usually one line per kept and one column per method
    title       plain text above the figure
    full        the full model's answer; correct: the correct one, if it is known
    whole_name  what the picture is called
    """
    # Each line is as tall as its tallest maps need, so that no line has empty space below.
    aspect = _aspect(picture)
    heights = [max(_maps_height(survivors, aspect) for survivors in line) for line in table]
    tall = _CELL_INCHES * aspect
    size = _CELL_INCHES * (1 + len(table[0])), 1.1 + sum(tall + 0.6 + height for height in heights)
    maps = any(survivors.weights is not None for line in table for survivors in line)
    figure = Figure(figsize=(size[0], size[1] + maps * _BAR_INCHES), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=12, parse_math=False)
    ratios = [tall + 0.6 + height for height in heights] + [_BAR_INCHES] * maps
    outer = figure.add_gridspec(len(ratios), 1 + len(table[0]), height_ratios=ratios)
    for row, line in enumerate(table):
        cells = [
            GridSpecFromSubplotSpec(2, 1, outer[row, column], height_ratios=(tall, heights[row]))
            for column in range(1 + len(line))
        ]
        whole = figure.add_subplot(cells[0][0])
        whole.imshow(picture)
        whole.set_title(whole_name, fontsize=11)
        _show_answer(whole, "the full model", full, correct)
        for cell, survivors in zip(cells[1:], line, strict=True):
            _draw_survivors(figure.add_subplot(cell[0]), picture, survivors, grid, correct)
            _draw_maps(figure.add_subplot(cell[1]), picture, survivors, grid)
    if maps:
        _draw_bar(figure, outer[len(table), :])
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _show_answer(axes: Axes, who: str, answer: str, correct: str | None) -> None:
    """Writes an answer below a picture, in green or red where the correct one is known."""
    verdict, color = "", "black"
    if correct is not None:
        verdict, color = (", right", _RIGHT) if is_right(answer, correct) else (", wrong", _WRONG)
    axes.set_xlabel(f"{who} answers {answer!r}{verdict}", fontsize=11, color=color, parse_math=False)
    _bare(axes)


def _draw_bar(figure: Figure, place: SubplotSpec) -> None:
    """Draws the colours of the maps with their meaning."""
    axes = figure.add_subplot(GridSpecFromSubplotSpec(1, 3, place, width_ratios=(1, 3, 1))[1])
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=HEAT, extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0", "half", "the largest weight of the map"], fontsize=9)
    axes.set_title("weight with which a survivor gathers each visual token; its own token is outlined", fontsize=10)


def _maps_height(survivors: Survivors, aspect: float) -> float:
    """Height in inches of a cell's maps, or of the text in their place if nothing is gathered."""
    if survivors.weights is None:
        return 0.4
    count = min(len(survivors.positions), MAX_MAPS)
    return 0.35 + _CELL_INCHES * aspect * math.ceil(count / columns_of(count)) / columns_of(count)


def _draw_survivors(
    axes: Axes, picture: np.ndarray, survivors: Survivors, grid: tuple[int, int], correct: str | None
) -> None:
    axes.imshow(dim_others(picture, survivors.positions, grid))
    height, width = picture.shape[0] / grid[0], picture.shape[1] / grid[1]
    size = min(11.0, 0.62 * 72 * _CELL_INCHES / max(grid))  # in points: fits into a token
    for number, position in enumerate(survivors.positions, start=1):
        row, column = divmod(position, grid[1])
        left, top = column * width - 0.5, row * height - 0.5
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="#E69F00", linewidth=1))
        if len(survivors.positions) <= MAX_NUMBERED:
            number_text = axes.text(left + width / 2, top + height / 2, str(number), fontsize=size, color="black")
            number_text.set(
                ha="center", va="center_baseline", path_effects=[withStroke(linewidth=2, foreground="white")]
            )
    axes.set_title(
        f"{survivors.point.method}, {len(survivors.positions)} kept before layer {survivors.layer}", fontsize=11
    )
    _show_answer(axes, survivors.point.method, survivors.answer, correct)


def _draw_maps(axes: Axes, picture: np.ndarray, survivors: Survivors, grid: tuple[int, int]) -> None:
    description = GATHERED[survivors.gathers]
    if survivors.weights is None:
        axes.set_axis_off()
        axes.text(0.5, 1, f"each {description}", ha="center", va="top", fontsize=10, transform=axes.transAxes)
        return
    side, count = 112, len(survivors.positions)
    height = map_height(picture, side)
    axes.imshow(montage(picture, survivors, grid, side))
    for index in range(min(count, MAX_MAPS)):
        row, column = divmod(index, columns_of(min(count, MAX_MAPS)))
        number = axes.text(column * (side + 4) + 8, row * (height + 4) + 8, str(index + 1), fontsize=9, color="black")
        number.set(ha="left", va="top", path_effects=[withStroke(linewidth=2, foreground="white")])
    shown = f"first {MAX_MAPS} of {count}" if count > MAX_MAPS else f"1 to {count}"
    axes.set_title(f"each {description}: {shown}", fontsize=10)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
