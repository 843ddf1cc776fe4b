"""Shapes that move over a plain background, frame by frame: what the bundled videos are drawn from.

Everything is in pixels of a frame, from its top left. Within a scene every shape has a kind and a colour of its own.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from tokensel.data.drawing import PALETTE

SIDE = 224
#: Frames of a whole video.
LENGTH = 32
KINDS = ("circle", "square", "triangle", "star")
COLORS = ("red", "green", "blue", "yellow", "gray", "black")
# Shapes are drawn so much larger and averaged, which smooths their edges.
_OVERSAMPLE = 2
# Radii of the tips and of the dents of a star, relative to the shape's.
_TIP, _DENT = 1.15, 0.5

#: Centre and radius: (x, y, radius).
Place = tuple[float, float, float]


@dataclass(frozen=True)
class Mover:
    """A shape and where it is in each frame; None: it is not there."""

    kind: str
    color: str
    track: tuple[Place | None, ...]

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """The shapes of a video, on a background of one colour."""

    background: tuple[int, int, int]
    movers: tuple[Mover, ...]

    def frame(self, index: int) -> Image.Image:
        """The frame at this index, RGB, SIDE x SIDE."""
        side = SIDE * _OVERSAMPLE
        image = Image.new("RGB", (side, side), self.background)
        draw = ImageDraw.Draw(image)
        for mover in self.movers:
            if (place := mover.track[index]) is not None:
                _draw(draw, mover.kind, PALETTE[mover.color], place)
        return image.reduce(_OVERSAMPLE)


def _draw(draw: ImageDraw.ImageDraw, kind: str, fill: tuple[int, int, int], place: Place) -> None:
    x, y, radius = (_OVERSAMPLE * value for value in place)
    if kind == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif kind == "square":
        half = 0.85 * radius
        draw.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif kind == "triangle":
        draw.polygon(_corners(x, y, [_TIP * radius] * 3), fill=fill)
    else:
        draw.polygon(_corners(x, y, [_TIP * radius, _DENT * radius] * 5), fill=fill)


def _corners(x: float, y: float, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Corners at equal angles around (x, y), the first at the top."""
    angles = [2 * math.pi * k / len(radii) - math.pi / 2 for k in range(len(radii))]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def background(rng: random.Random) -> tuple[int, int, int]:
    """A light colour."""
    return rng.randint(225, 250), rng.randint(225, 250), rng.randint(225, 250)


def looks(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Kinds and colours of `count` shapes; no two share a colour, nor a kind while there are enough."""
    kinds = rng.sample(KINDS, len(KINDS))
    return list(zip([kinds[k % len(kinds)] for k in range(count)], rng.sample(COLORS, count), strict=True))


def moving(start: Place, step: tuple[float, float], until: int = LENGTH) -> tuple[Place, ...]:
    """A track that moves by `step` between frames, and stands still from frame `until` on."""
    x, y, radius = start
    return tuple((x + step[0] * min(t, until), y + step[1] * min(t, until), radius) for t in range(LENGTH))


def scaling(start: Place, factor: float) -> tuple[Place, ...]:
    """A track that stays in its place, and whose size is `factor` times the first one in the last frame."""
    x, y, radius = start
    return tuple((x, y, radius * (1 + (factor - 1) * t / (LENGTH - 1))) for t in range(LENGTH))


def shown(place: Place, first: int, end: int = LENGTH) -> tuple[Place | None, ...]:
    """A track that is in one place in frames first .. end - 1 only."""
    return tuple(place if first <= t < end else None for t in range(LENGTH))
