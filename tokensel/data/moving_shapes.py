"""Questions about short drawn videos of moving shapes, whose answers are known exactly.

Each video depends only on (split, family, index): nothing is stored. A frame is drawn when it is asked for.

The first frame answers the families of ONE_FRAME. It says nothing about the answer in the others, because they choose
the answer after it: with `data.frames=1` no model can be better there than a guess. 8 equally spaced frames answer all.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

from PIL import Image

from tokensel.data.motion import (
    LENGTH,
    SIDE,
    Mover,
    Place,
    Scene,
    background,
    looks,
    moving,
    scaling,
    shown,
)
from tokensel.data.question import Question
from tokensel.data.video import FRAMES, Video
from tokensel.errors import TokenselError, check_choice

T = TypeVar("T")

SPLITS = ("test", "train")
#: Questions per family.
PER_FAMILY = 25
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIZES = {"it grows": 1.7, "it shrinks": 0.5, "its size stays the same": 1.0}
STOPS = ("it stops", "it moves until the video ends")
EQUAL = "neither, they are equally fast"
_MIDDLE = SIDE / 2
# Where shapes are that do not move far: centres that keep their distance from each other and from the middle.
_CORNERS = ((42, 42), (SIDE - 42, 42), (42, SIDE - 42), (SIDE - 42, SIDE - 42))
_PLACES = (*_CORNERS, (_MIDDLE, 42), (_MIDDLE, SIDE - 42))


@dataclass(frozen=True)
class Clip:
    """A video and its question. choices: the right one first."""

    scene: Scene
    text: str
    choices: tuple[str, ...]


def _start(rng: random.Random) -> Place:
    """Where a shape starts that moves away from the middle."""
    return _MIDDLE + rng.uniform(-10, 10), _MIDDLE + rng.uniform(-10, 10), rng.uniform(16, 20)


def _still(rng: random.Random) -> tuple[Place, ...]:
    """The track of a shape that stands in a corner."""
    return moving((*rng.choice(_CORNERS), rng.uniform(16, 20)), (0, 0))


def _right_first(rng: random.Random, choices: Sequence[T]) -> tuple[T, ...]:
    """The choices in random order; the first one is to be made the right one."""
    return tuple(rng.sample(list(choices), len(choices)))


def _drifting(rng: random.Random) -> list[Mover]:
    """Two or three shapes that move a little."""
    several = looks(rng, rng.randint(2, 3))
    places = rng.sample(_PLACES, len(several))
    return [
        Mover(*look, moving((*place, rng.uniform(18, 24)), (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3))))
        for look, place in zip(several, places, strict=True)
    ]


def _color(rng: random.Random) -> Clip:
    scene = Scene(background(rng), tuple(_drifting(rng)))
    asked, *_ = scene.movers
    others = [color for _, color in looks(rng, 6) if color != asked.color]
    return Clip(scene, f"What color is the {asked.kind}?", (asked.color, *others[:3]))


def _shape(rng: random.Random) -> Clip:
    scene = Scene(background(rng), tuple(_drifting(rng)))
    asked, *_ = scene.movers
    others = [kind for kind, _ in looks(rng, 4) if kind != asked.kind]
    return Clip(scene, f"Which shape is {asked.color}?", (asked.kind, *others))


def _direction(rng: random.Random) -> Clip:
    (asked, other), back, start, still = looks(rng, 2), background(rng), _start(rng), _still(rng)
    choices, speed = _right_first(rng, tuple(DIRECTIONS)), rng.uniform(1.6, 2.5)
    across, down = DIRECTIONS[choices[0]]
    mover = Mover(*asked, moving(start, (speed * across, speed * down)))
    return Clip(Scene(back, (mover, Mover(*other, still))), f"Which way does the {mover.name} move?", choices)


def _faster(rng: random.Random) -> Clip:
    both, back, starts = looks(rng, 2), background(rng), []
    for y in (SIDE / 4, 3 * SIDE / 4):
        x, _, radius = _start(rng)
        starts.append((x, y + rng.uniform(-12, 12), radius))
    names = [f"the {color} {kind}" for kind, color in both]
    choices = _right_first(rng, (*names, EQUAL))
    slow, fast = rng.uniform(0.8, 1.1), rng.uniform(2.2, 2.6)
    same = rng.choice((slow, fast))
    speeds = {names[0]: (fast, slow), names[1]: (slow, fast), EQUAL: (same, same)}[choices[0]]
    movers = [
        Mover(*look, moving(start, (speed * rng.choice((-1, 1)), 0)))
        for look, start, speed in zip(both, starts, speeds, strict=True)
    ]
    return Clip(Scene(back, tuple(movers)), f"Which is faster, {names[0]} or {names[1]}?", choices)


def _count(rng: random.Random) -> Clip:
    several, back = looks(rng, 5), background(rng)
    places = [(*place, rng.uniform(18, 24)) for place in rng.sample(_PLACES, 5)]
    choices = _right_first(rng, ("2", "3", "4", "5"))
    number = int(choices[0])
    # One after the other. Each stays a little longer than until the next comes, and is in one of 8 frames at least.
    every = LENGTH / number
    movers = [
        Mover(*several[k], shown(places[k], round(k * every), min(LENGTH, round((k + 1.25) * every))))
        for k in range(number)
    ]
    return Clip(Scene(back, tuple(movers)), "How many shapes appear in the whole video?", choices)


def _last(rng: random.Random) -> Clip:
    several, back = looks(rng, 4), background(rng)
    places = [(*place, rng.uniform(18, 24)) for place in rng.sample(_PLACES, 4)]
    later = _right_first(rng, (1, 2, 3))
    # At least 6 frames apart, so that 8 frames show each one come. They stay: no frame alone shows the order.
    first = {0: 0, later[0]: 21, later[1]: 6 + rng.randint(0, 2), later[2]: 14 + rng.randint(0, 1)}
    movers = [Mover(*several[k], shown(places[k], first[k])) for k in range(4)]
    choices = tuple(several[k][1] for k in later)
    return Clip(Scene(back, tuple(movers)), "What color is the shape that appears last?", choices)


def _stops(rng: random.Random) -> Clip:
    (asked, other), back, start, still = looks(rng, 2), background(rng), _start(rng), _still(rng)
    choices, speed = _right_first(rng, STOPS), rng.uniform(1.6, 2.5)
    across, down = rng.choice(tuple(DIRECTIONS.values()))
    until = rng.randint(10, 20) if choices[0] == STOPS[0] else LENGTH
    mover = Mover(*asked, moving(start, (speed * across, speed * down), until))
    text = f"Does the {mover.name} stop?"
    return Clip(Scene(back, (mover, Mover(*other, still))), text, choices)


def _size(rng: random.Random) -> Clip:
    (asked, other), back, still = looks(rng, 2), background(rng), _still(rng)
    start = (*_start(rng)[:2], rng.uniform(22, 30))
    choices = _right_first(rng, tuple(SIZES))
    mover = Mover(*asked, scaling(start, SIZES[choices[0]]))
    text = f"What happens to the size of the {mover.name}?"
    return Clip(Scene(back, (mover, Mover(*other, still))), text, choices)


FAMILIES: dict[str, Callable[[random.Random], Clip]] = {
    "color": _color,
    "shape": _shape,
    "direction": _direction,
    "faster": _faster,
    "count": _count,
    "last": _last,
    "stops": _stops,
    "size": _size,
}
#: The families whose questions the first frame answers.
ONE_FRAME = ("color", "shape")


@cache  # 32 frames of a video share it
def make_clip(family: str, split: str, index: int) -> Clip:
    """The video and question of (family, split, index)."""
    return FAMILIES[family](random.Random(f"tokensel/moving_shapes/{split}/{family}/{index}"))


def draw_frame(family: str, split: str, index: int, frame: int) -> Image.Image:
    """One frame of one video, RGB, SIDE x SIDE."""
    return make_clip(family, split, index).scene.frame(frame)


def load_moving_shapes(
    split: str = "test", families: Sequence[str] | None = None, per_family: int = PER_FAMILY, frames: int = FRAMES
) -> list[Question]:
    """`per_family` questions of each family, in a fixed order, each about a video of its own.

    Parameters:
        split: test or train; they share no video
        families: names from FAMILIES; None: all of them
        frames: how many of a video's 32 frames are shown

    Raises TokenselError for an unknown split or family, or a per_family or frames below 1.
    """
    check_choice("data.split", split, SPLITS)
    for name, value in (("per_family", per_family), ("frames", frames)):
        if value < 1:
            raise TokenselError(f"data.{name}={value}: must be at least 1")
    questions = []
    for name in FAMILIES if families is None else families:
        check_choice("data.families", name, tuple(FAMILIES))
        questions += [_question(name, split, index, frames) for index in range(per_family)]
    return questions


@cache
def _question(family: str, split: str, index: int, frames: int) -> Question:
    clip = make_clip(family, split, index)
    right, *wrong = clip.choices
    # The place of the answer cycles with the index, so that every letter is right equally often.
    position = index % len(clip.choices)
    id = f"moving_shapes-{split}-{family}-{index}"
    return Question(
        id=id,
        text=clip.text,
        choices=(*wrong[:position], right, *wrong[position:]),
        answer=position,
        image=None,
        image_id=id,
        topic="one frame" if family in ONE_FRAME else "several frames",
        split=split,
        family=family,
        video=Video([partial(draw_frame, family, split, index, frame) for frame in range(LENGTH)]),
        frames=frames,
    )
