"""A canvas for the bundled diagrams that draws every shape twice: on the picture and on a map of labels.

The model sees the picture. The label map gives, per 14 px patch, what is drawn there; it is used only to train the
embedded model's vision tower, never to answer a question.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 336
PATCH = 14
GRID = SIDE // PATCH
_OVERSAMPLE = 2
_MIN_COVER = 0.3

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (236, 26, 26),
    "green": (30, 190, 50),
    "blue": (40, 70, 220),
    "yellow": (245, 215, 40),
    "teal": (20, 150, 150),
    "brown": (150, 68, 34),
    "gray": (130, 130, 130),
    "black": (20, 20, 20),
}
COLORS = tuple(PALETTE)
SHAPES = ("circle", "triangle", "rectangle", "star")
#: What a patch can show. Index 0 is the empty background.
KINDS = ("nothing", *SHAPES, "north", "south", "ruler", "particle", "arrow", "wall", "text")


@dataclass(frozen=True)
class PatchLabels:
    """Labels of the 24 x 24 patches: kind and colour, and whether an object's centre is there."""

    kind: np.ndarray  # [24, 24] int64, index into KINDS
    color: np.ndarray  # [24, 24] int64, 0 = no named colour, else 1 + index into COLORS
    center: np.ndarray  # [24, 24] int64, 1 where the middle of an object lies


class Canvas:
    """A 336 x 336 picture under construction; coordinates in pixels from the top left.

    inked=False draws nothing but consumes `rng` as drawing would, for callers that need only the questions.
    """

    def __init__(self, rng: random.Random, inked: bool = True):
        self.rng = rng
        self.inked = inked
        tint = rng.randint(232, 255)
        self.background = tuple(min(255, tint + rng.randint(-6, 6)) for _ in range(3))
        if not inked:
            return
        side = SIDE * _OVERSAMPLE
        self._image = Image.new("RGB", (side, side), self.background)
        self._draw = ImageDraw.Draw(self._image)
        self._kinds = Image.new("L", (SIDE, SIDE), 0)
        self._colors = Image.new("L", (SIDE, SIDE), 0)
        self._label_draws = (ImageDraw.Draw(self._kinds), ImageDraw.Draw(self._colors))
        self._center = np.zeros((GRID, GRID), dtype=np.int64)

    def shade(self, color: str) -> tuple[int, int, int]:
        """The named colour with a small random variation."""
        red, green, blue = (min(255, max(0, c + self.rng.randint(-14, 14))) for c in PALETTE[color])
        return red, green, blue

    def _label_values(self, kind: str, color: str | None) -> tuple[int, int]:
        return KINDS.index(kind), 0 if color is None else 1 + COLORS.index(color)

    def ellipse(self, box, fill, kind: str, color: str | None = None, outline=None) -> None:
        """An ellipse in box = (x0, y0, x1, y1)."""
        if not self.inked:
            return
        scaled = [v * _OVERSAMPLE for v in box]
        self._draw.ellipse(scaled, fill=fill, outline=outline, width=2 * _OVERSAMPLE if outline else 0)
        for draw, value in zip(self._label_draws, self._label_values(kind, color), strict=True):
            draw.ellipse(list(box), fill=value)

    def polygon(self, points, fill, kind: str, color: str | None = None, outline=None) -> None:
        """A filled polygon."""
        if not self.inked:
            return
        scaled = [(x * _OVERSAMPLE, y * _OVERSAMPLE) for x, y in points]
        self._draw.polygon(scaled, fill=fill, outline=outline, width=2 * _OVERSAMPLE if outline else 0)
        for draw, value in zip(self._label_draws, self._label_values(kind, color), strict=True):
            draw.polygon(list(points), fill=value)

    def box(self, box, fill, kind: str, color: str | None = None, outline=None) -> None:
        """A filled rectangle, box = (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = box
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, kind, color, outline)

    def line(self, start, end, ink, kind: str, width: int = 3) -> None:
        """A straight line."""
        if not self.inked:
            return
        scaled = [v * _OVERSAMPLE for v in (*start, *end)]
        self._draw.line(scaled, fill=ink, width=width * _OVERSAMPLE)
        value = KINDS.index(kind)
        # Thin lines are drawn wider on the label map, so that the patches they cross get their label.
        self._label_draws[0].line([*start, *end], fill=value, width=max(width, 8))

    def arrow(self, start, end, ink, kind: str, width: int = 3, double: bool = False) -> None:
        """A line with a head at its end, or with double=True at both ends."""
        if not self.inked:
            return
        self.line(start, end, ink, kind, width)
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        tips = [(end, angle)] + ([(start, angle + math.pi)] if double else [])
        for (x, y), direction in tips:
            wings = [(x - 9 * math.cos(direction + turn), y - 9 * math.sin(direction + turn)) for turn in (0.5, -0.5)]
            self._draw.polygon(
                [(px * _OVERSAMPLE, py * _OVERSAMPLE) for px, py in ((x, y), *wings)],
                fill=ink,
            )

    def text(self, x: float, y: float, words: str, size: int, ink=(30, 30, 30), kind: str | None = "text") -> None:
        """Text centred at (x, y). kind=None leaves the label map unchanged (for a letter on an object)."""
        if not self.inked:
            return
        font = ImageFont.load_default(size * _OVERSAMPLE)
        self._draw.text((x * _OVERSAMPLE, y * _OVERSAMPLE), words, fill=ink, font=font, anchor="mm")
        if kind is not None:
            half = 0.27 * size * len(words)
            box = [x - half, y - 0.4 * size, x + half, y + 0.4 * size]
            self._label_draws[0].rectangle(box, fill=KINDS.index(kind))

    def mark_center(self, x: float, y: float) -> None:
        """Labels the patch at (x, y) as an object's centre."""
        if not self.inked:
            return
        self._center[min(GRID - 1, int(y) // PATCH), min(GRID - 1, int(x) // PATCH)] = 1

    def shape(self, kind: str, color: str, x: float, y: float, radius: float) -> None:
        """One of SHAPES centred at (x, y), rotated randomly if that does not change its name."""
        fill = self.shade(color)
        outline = (60, 60, 60) if self.rng.random() < 0.3 else None
        if kind == "circle":
            self.ellipse((x - radius, y - radius, x + radius, y + radius), fill, kind, color, outline)
        elif kind == "rectangle":
            long, short = radius, radius * self.rng.uniform(0.55, 0.8)
            half_w, half_h = (long, short) if self.rng.random() < 0.5 else (short, long)
            self.box((x - half_w, y - half_h, x + half_w, y + half_h), fill, kind, color, outline)
        elif kind == "triangle":
            turn = self.rng.uniform(-0.25, 0.25) - math.pi / 2
            points = [
                (
                    x + 1.1 * radius * math.cos(turn + k * 2 * math.pi / 3),
                    y + 1.1 * radius * math.sin(turn + k * 2 * math.pi / 3),
                )
                for k in range(3)
            ]
            self.polygon(points, fill, kind, color, outline)
        elif kind == "star":
            turn = self.rng.uniform(0, 2 * math.pi)
            points = [
                (
                    x + radius * (1.15 if k % 2 == 0 else 0.5) * math.cos(turn + k * math.pi / 5),
                    y + radius * (1.15 if k % 2 == 0 else 0.5) * math.sin(turn + k * math.pi / 5),
                )
                for k in range(10)
            ]
            self.polygon(points, fill, kind, color, outline)
        else:
            raise ValueError(f"shape {kind!r} is not one of {', '.join(SHAPES)}")
        self.mark_center(x, y)

    def picture(self) -> Image.Image:
        """The finished 336 x 336 RGB picture."""
        return self._image.reduce(_OVERSAMPLE)

    def labels(self) -> PatchLabels:
        """The labels of the finished picture."""
        kind = per_patch(np.asarray(self._kinds), len(KINDS))
        color = per_patch(np.asarray(self._colors), len(COLORS) + 1)
        return PatchLabels(kind, color, self._center)


def per_patch(pixels: np.ndarray, values: int) -> np.ndarray:
    """The most frequent non-zero value of each patch, or 0 if none covers 30% of it: [336, 336] -> [24, 24]."""
    patches = pixels.reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2).reshape(GRID * GRID, PATCH * PATCH)
    counts = np.zeros((GRID * GRID, values), dtype=np.int64)
    np.add.at(counts, (np.arange(GRID * GRID)[:, None], patches), 1)
    counts[:, 0] = _MIN_COVER * PATCH * PATCH
    return counts.argmax(1).reshape(GRID, GRID)
