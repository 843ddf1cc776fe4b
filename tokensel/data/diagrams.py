"""Questions about drawn diagrams, modelled on those families of ScienceQA whose pictures can be drawn by a program.

Each picture depends only on (split, family, index): nothing is stored, and no two splits share a picture. The choices
are shuffled and all answers are equally likely given the text, so only the picture determines the answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from PIL import Image

from tokensel.data.drawing import COLORS, SHAPES, SIDE, Canvas
from tokensel.data.question import Question
from tokensel.errors import TokenselError, check_choice

NUMBERS = ("1", "2", "3", "4")
SPLITS = ("test", "train", "validation")
#: Questions per family, in every split, unless another number is asked for.
PER_FAMILY = 350


@dataclass(frozen=True)
class Item:
    """One question about a picture. `answer` is an index into `choices`, `short` the answer in one word."""

    text: str
    choices: tuple[str, ...]
    answer: int
    short: str
    hint: str = ""


@dataclass
class Diagram:
    """A drawn picture with all questions about it."""

    canvas: Canvas
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class DiagramFamily:
    """How one kind of diagram is drawn, and its subject, topic and grade in ScienceQA's terms."""

    draw: Callable[[Canvas, int], Diagram]
    subject: str
    topic: str
    grade: str


def _pick(rng: random.Random, options: Sequence[str], **values: str) -> str:
    return rng.choice(options).format(**values)


def _with_distractors(
    rng: random.Random, answer: str, others: Sequence[str], size: int = 4
) -> tuple[tuple[str, ...], int]:
    """The answer at a random position among `size - 1` of the others, and its position."""
    wrong = rng.sample([o for o in others if o != answer], size - 1)
    index = rng.randrange(size)
    return (*wrong[:index], answer, *wrong[index:]), index


def _shuffled(rng: random.Random, choices: Sequence[str], answer: str) -> tuple[tuple[str, ...], int]:
    """The choices in random order, and the position of the answer."""
    order = rng.sample(list(choices), len(choices))
    return tuple(order), order.index(answer)


# Scenes: one to four shapes on an empty background


@dataclass(frozen=True)
class _Object:
    shape: str
    color: str
    x: float
    y: float
    radius: float


def _scene(canvas: Canvas, size: int, distinct: bool) -> list[_Object]:
    rng = canvas.rng
    shapes = rng.sample(SHAPES, size) if distinct else [rng.choice(SHAPES) for _ in range(size)]
    colors = rng.sample(COLORS, size) if distinct else [rng.choice(COLORS) for _ in range(size)]
    # Shapes differ by at least 30 px in x and in y, so that "farthest to the left" is unambiguous. If no position is
    # free, the scene is eventually started again.
    objects: list[_Object] = []
    while len(objects) < size:
        radius = rng.uniform(30, 46) if size > 2 else rng.uniform(32, 60)
        x, y = rng.uniform(radius + 6, SIDE - radius - 6), rng.uniform(radius + 6, SIDE - radius - 6)
        if all(
            max(abs(x - o.x), abs(y - o.y)) > 1.15 * (radius + o.radius) and abs(x - o.x) > 30 and abs(y - o.y) > 30
            for o in objects
        ):
            k = len(objects)
            objects.append(_Object(shapes[k], colors[k], x, y, radius))
        elif rng.random() < 0.02:
            objects.clear()
    for o in objects:
        canvas.shape(o.shape, o.color, o.x, o.y, o.radius)
    return objects


def _color_items(rng: random.Random, objects: list[_Object]) -> list[Item]:
    items = []
    for o in objects:
        if [p.shape for p in objects].count(o.shape) == 1:
            text = _pick(rng, ("What color is the {s}?", "Which color does the {s} have?"), s=o.shape)
            items.append(Item(text, *_with_distractors(rng, o.color, COLORS), o.color))
    return items


def _shape_items(rng: random.Random, objects: list[_Object]) -> list[Item]:
    items = []
    for o in objects:
        if [p.color for p in objects].count(o.color) == 1:
            text = _pick(rng, ("What shape is {c}?", "Which shape is the {c} one?"), c=o.color)
            items.append(Item(text, *_with_distractors(rng, o.shape, SHAPES), o.shape))
    return items


def _place_items(rng: random.Random, objects: list[_Object]) -> list[Item]:
    items = []
    if len(objects) > 1 and len({o.shape for o in objects}) == len(objects):
        for words, key in (
            ("farthest to the left", lambda o: o.x),
            ("farthest to the right", lambda o: -o.x),
            ("at the top", lambda o: o.y),
            ("at the bottom", lambda o: -o.y),
        ):
            answer = min(objects, key=key).shape
            text = _pick(rng, ("Which shape is {w}?", "What is {w}?"), w=words)
            items.append(Item(text, *_shuffled(rng, [o.shape for o in objects], answer), answer))
    return items


def _count_items(rng: random.Random, objects: list[_Object]) -> list[Item]:
    text = _pick(rng, ("How many shapes are there?", "How many shapes are in the picture?"))
    answer = str(len(objects))
    return [Item(text, *_with_distractors(rng, answer, NUMBERS), answer)]


def _draw_scene(items: str, canvas: Canvas, size: int) -> Diagram:
    rng = canvas.rng
    objects = _scene(canvas, size, distinct=items != "count" or rng.random() < 0.5)
    makers = {"color": _color_items, "shape": _shape_items, "place": _place_items, "count": _count_items}
    diagram = Diagram(canvas, makers[items](rng, objects))
    rng.shuffle(diagram.items)
    return diagram


def draw_mixed_scene(canvas: Canvas, size: int) -> Diagram:
    """A training picture: one scene with scene questions of every kind."""
    rng = canvas.rng
    objects = _scene(canvas, size, distinct=rng.random() < 0.7)
    items = [*_color_items(rng, objects), *_shape_items(rng, objects), *_place_items(rng, objects)]
    rng.shuffle(items)
    return Diagram(canvas, [*_count_items(rng, objects), *items])


# Magnets

_ATTRACT_HINT = "Magnets that attract pull together. Magnets that repel push apart."
_FORCE_HINT = "Magnets sometimes pull or push on each other without touching."


def _magnet(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    height: float,
    poles: str,
    inks: dict[str, tuple[int, int, int]],
    letters: bool,
) -> None:
    """A bar magnet centred at (x, y). poles: its left pole, then its right one, e.g. "NS"."""
    for side, pole in zip((-1, 1), poles, strict=True):
        edge, end = (x - width / 2, x) if side < 0 else (x, x + width / 2)
        kind = "north" if pole == "N" else "south"
        canvas.box((edge, y - height / 2, end, y + height / 2), inks[pole], kind, None, (40, 40, 40))
        if letters:
            ink = (10, 10, 10) if sum(inks[pole]) > 330 else (250, 250, 250)
            canvas.text((edge + end) / 2, y, pole, int(min(height * 0.75, 40)), ink, kind=None)
    canvas.mark_center(x, y)


def _pole_inks(rng: random.Random, letters: bool) -> dict[str, tuple[int, int, int]]:
    """The colour of each pole: red north and blue south, or one colour for both if letters mark the poles."""
    if not letters:
        jitter = partial(rng.randint, -12, 12)
        return {
            "N": (225 + jitter(), 40 + jitter(), 40 + jitter()),
            "S": (50 + jitter(), 80 + jitter(), 225 + jitter()),
        }
    tint = (rng.randint(150, 245), rng.randint(150, 245), rng.randint(150, 245))
    return {"N": tint, "S": tint}


def _draw_attract(canvas: Canvas, size: int) -> Diagram:
    rng = canvas.rng
    letters = rng.random() < 0.5
    inks = _pole_inks(rng, letters)
    width, height = rng.uniform(112, 136), rng.uniform(44, 64)
    gap = rng.uniform(18, 44)
    middle, y = SIDE / 2 + rng.uniform(-8, 8), rng.uniform(80, SIDE - 80)
    left, right = rng.choice(("NS", "SN")), rng.choice(("NS", "SN"))
    for poles, sign in ((left, -1), (right, 1)):
        _magnet(canvas, middle + sign * (gap + width) / 2, y, width, height, poles, inks, letters)
    answer = "repel" if left[1] == right[0] else "attract"
    items = []
    for _ in range(4):
        text = _pick(rng, ("Will these magnets attract or repel each other?", "Do these magnets attract or repel?"))
        items.append(Item(text, *_shuffled(rng, ("attract", "repel"), answer), answer, _ATTRACT_HINT))
    return Diagram(canvas, items)


def _draw_force(canvas: Canvas, size: int) -> Diagram:
    rng = canvas.rng
    letters = rng.random() < 0.5
    inks = _pole_inks(rng, letters)
    by_distance, answer = rng.random() < 0.5, rng.choice(("Pair 1", "Pair 2", "same"))
    near, far = rng.uniform(24, 36), rng.uniform(84, 104)
    small, big = (rng.uniform(52, 60), rng.uniform(24, 30)), (rng.uniform(96, 104), rng.uniform(60, 70))
    if by_distance:
        width, height = rng.uniform(70, 84), rng.uniform(34, 50)
        strong, weak = (near, width, height), (far, width, height)
    else:
        gap = rng.uniform(34, 60)
        strong, weak = (gap, *big), (gap, *small)
    both = rng.choice((strong, weak))
    pairs = {"Pair 1": (strong, weak), "Pair 2": (weak, strong), "same": (both, both)}[answer]
    for k, (gap, width, height) in enumerate(pairs):
        y = SIDE * (0.27 + 0.5 * k) + rng.uniform(-6, 6)
        middle = SIDE / 2 + rng.uniform(-5, 5)
        for sign in (-1, 1):
            _magnet(
                canvas,
                middle + sign * (gap + width) / 2,
                y,
                width,
                height,
                rng.choice(("NS", "SN")),
                inks,
                letters,
            )
        canvas.arrow((middle - gap / 2 + 2, y), (middle + gap / 2 - 2, y), (60, 60, 60), "ruler", 3, double=True)
        canvas.text(SIDE / 2, y - 50, f"Pair {k + 1}", 17)
    choices = {
        "Pair 1": "greater in Pair 1",
        "Pair 2": "greater in Pair 2",
        "same": "the same in both pairs",
    }
    items = []
    for _ in range(4):
        text = _pick(
            rng,
            (
                "Where is the magnetic force between the magnets stronger?",
                "Compare the magnetic force in each pair. It is",
            ),
        )
        items.append(
            Item(
                text,
                *_shuffled(rng, list(choices.values()), choices[answer]),
                answer.split()[-1],
                _FORCE_HINT,
            )
        )
    return Diagram(canvas, items)


# Particles


def _dots(
    canvas: Canvas,
    rng: random.Random,
    box: tuple[float, float, float, float],
    count: int,
    color: str,
    radius: float,
) -> None:
    """`count` particles that do not touch each other, inside box = (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    step = 2 * radius + 4
    cells = [(x, y) for x in range(int((x1 - x0) // step)) for y in range(int((y1 - y0) // step))]
    fill = canvas.shade(color)
    for column, row in rng.sample(cells, count):
        x = x0 + (column + 0.5) * step + rng.uniform(-1.5, 1.5)
        y = y0 + (row + 0.5) * step + rng.uniform(-1.5, 1.5)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill, "particle", color)
        canvas.mark_center(x, y)


_DOT_COLORS = ("red", "green", "blue", "yellow", "black", "brown")


def _two_counts(rng: random.Random, answer: str) -> tuple[int, int]:
    """The numbers of particles on the left and on the right; they differ clearly unless answer is "same"."""
    few = rng.randint(2, 4)
    many = few + rng.randint(4, 6)
    if answer == "same":
        few = many = rng.randint(2, 9)
    return (few, many) if answer == "right" else (many, few)


def _draw_concentration(canvas: Canvas, size: int) -> Diagram:
    rng = canvas.rng
    color = rng.choice(_DOT_COLORS)
    answer = rng.choice(("left", "right", "same"))
    top, bottom = rng.uniform(50, 80), rng.uniform(262, 282)
    liquid = tuple(rng.randint(205, 228) if k < 2 else 240 for k in range(3))
    for k, count in enumerate(_two_counts(rng, answer)):
        x0 = 22 + k * 160
        canvas.box((x0, top, x0 + 132, bottom), liquid, "nothing", None, (90, 90, 90))
        _dots(canvas, rng, (x0 + 6, top + 8, x0 + 126, bottom - 4), count, color, rng.uniform(8.5, 10))
        canvas.text(x0 + 66, bottom + 20, f"Solution {k + 1}", 19)
    choices = {"left": "Solution 1", "right": "Solution 2", "same": "neither, they are the same"}
    items = []
    for _ in range(4):
        text = _pick(
            rng,
            (
                "Which solution has a higher concentration of {c} particles?",
                "Where is the concentration of {c} particles higher?",
            ),
            c=color,
        )
        short = {"left": "1", "right": "2", "same": "same"}[answer]
        items.append(Item(text, *_shuffled(rng, list(choices.values()), choices[answer]), short))
    return Diagram(canvas, items)


def _draw_energy(canvas: Canvas, size: int) -> Diagram:
    rng = canvas.rng
    color = rng.choice(_DOT_COLORS)
    answer = rng.choice(("left", "right", "same"))
    slow, fast = rng.uniform(16, 20), rng.uniform(46, 54)
    both = rng.choice((slow, fast))
    speeds = {"left": (fast, slow), "right": (slow, fast), "same": (both, both)}[answer]
    count = rng.randint(4, 5)
    for k, speed in enumerate(speeds):
        x0, y0 = 14 + k * 162, rng.uniform(34, 44)
        canvas.box((x0, y0, x0 + 146, y0 + 236), (252, 252, 252), "nothing", None, (90, 90, 90))
        fill = canvas.shade(color)
        for row in range(count):
            x = x0 + rng.uniform(20, 128 - speed - 22)
            y = y0 + 26 + row * 46 + rng.uniform(-6, 6)
            canvas.ellipse((x - 10, y - 10, x + 10, y + 10), fill, "particle", color)
            canvas.arrow((x + 12, y), (x + 12 + speed, y), (50, 50, 50), "arrow", 3)
        canvas.text(x0 + 73, y0 + 256, f"Sample {k + 1}", 19)
    choices = {"left": "Sample 1", "right": "Sample 2", "same": "neither, they are the same"}
    items = []
    for _ in range(4):
        text = _pick(
            rng,
            (
                "Which sample has the higher temperature?",
                "In which sample do the particles have a higher average kinetic energy?",
            ),
        )
        short = {"left": "1", "right": "2", "same": "same"}[answer]
        items.append(Item(text, *_shuffled(rng, list(choices.values()), choices[answer]), short, _ENERGY_HINT))
    return Diagram(canvas, items)


_ENERGY_HINT = "Each particle has the same mass. A longer arrow means a faster particle."
_MEMBRANE_HINT = "Particles move both ways through the membrane until both sides are equal."


def _draw_membrane(canvas: Canvas, size: int) -> Diagram:
    rng = canvas.rng
    color = rng.choice(_DOT_COLORS)
    crowded = rng.choice(("left", "right"))
    top, bottom = rng.uniform(60, 90), rng.uniform(250, 280)
    canvas.box((20, top, SIDE - 20, bottom), (226, 240, 248), "nothing", None, (90, 90, 90))
    for y in range(int(top) + 4, int(bottom) - 4, 14):
        canvas.line((SIDE / 2, y), (SIDE / 2, y + 8), (120, 90, 60), "wall", 4)
    for k, count in enumerate(_two_counts(rng, crowded)):
        x0 = 28 + k * 146
        _dots(canvas, rng, (x0, top + 8, x0 + 132, bottom - 4), count, color, rng.uniform(8.5, 10))
    choices = {"left": "to the right", "right": "to the left"}
    items = []
    for _ in range(4):
        text = _pick(
            rng,
            (
                "Which way will more particles move through the membrane?",
                "Through the membrane, more particles will move",
            ),
        )
        answer = choices[crowded]
        items.append(Item(text, *_shuffled(rng, list(choices.values()), answer), answer.split()[-1], _MEMBRANE_HINT))
    return Diagram(canvas, items)


FAMILIES: dict[str, DiagramFamily] = {
    "color": DiagramFamily(partial(_draw_scene, "color"), "natural science", "shapes", "grade1"),
    "shape": DiagramFamily(partial(_draw_scene, "shape"), "natural science", "shapes", "grade1"),
    "place": DiagramFamily(partial(_draw_scene, "place"), "natural science", "shapes", "grade1"),
    "count": DiagramFamily(partial(_draw_scene, "count"), "natural science", "shapes", "grade1"),
    "attract": DiagramFamily(_draw_attract, "natural science", "physics", "grade3"),
    "force": DiagramFamily(_draw_force, "natural science", "physics", "grade5"),
    "concentration": DiagramFamily(_draw_concentration, "natural science", "chemistry", "grade7"),
    "energy": DiagramFamily(_draw_energy, "natural science", "chemistry", "grade8"),
    "membrane": DiagramFamily(_draw_membrane, "natural science", "biology", "grade7"),
}


#: The default families of `data=diagrams`: those that the embedded model has learned. On place, count and attract it is
#: right too rarely to show differences between methods, so these must be selected by name.
DEFAULT_FAMILIES = ("color", "shape", "force", "concentration", "energy", "membrane")


def draw_diagram(family: str, split: str, index: int, inked: bool = True) -> Diagram:
    """The picture and questions of (family, split, index); with inked=False only the questions."""
    rng = random.Random(f"tokensel/{split}/{family}/{index}")
    size = rng.randint(2 if family == "place" else 1, 4)
    return FAMILIES[family].draw(Canvas(rng, inked), size)


def draw_picture(family: str, split: str, index: int) -> Image.Image:
    """The 336 x 336 picture of one bundled question."""
    return draw_diagram(family, split, index).canvas.picture()


def load_diagrams(
    split: str = "test", families: Sequence[str] | None = None, per_family: int = PER_FAMILY, first: int = 0
) -> list[Question]:
    """`per_family` questions of each family, in a fixed order, each about a picture of its own.

    split: test; train, whose pictures the embedded model was trained on; or validation, for choosing settings without a
        look at test. No two share a picture.
    families: names from FAMILIES; None: DEFAULT_FAMILIES.
    first: the index of each family's first picture; of train, the embedded model has seen none from 3000 on.

    Raises TokenselError for an unknown split or family, a per_family below 1, or a first below 0.
    """
    check_choice("data.split", split, SPLITS)
    if per_family < 1:
        raise TokenselError(f"data.per_family={per_family}: must be at least 1")
    if first < 0:
        raise TokenselError(f"data.first={first}: must be at least 0")
    questions = []
    for name in DEFAULT_FAMILIES if families is None else families:
        check_choice("data.families", name, tuple(FAMILIES))
        questions += [_question(name, split, index) for index in range(first, first + per_family)]
    return questions


@cache  # a quarter of a millisecond each, and a command reads its questions several times
def _question(name: str, split: str, index: int) -> Question:
    item = draw_diagram(name, split, index, inked=False).items[0]
    family = FAMILIES[name]
    # The position of the answer cycles with the index, so that every letter is right equally often.
    position = index % len(item.choices)
    answer = item.choices[item.answer]
    wrong = [c for c in item.choices if c != answer]
    choices = (*wrong[:position], answer, *wrong[position:])
    return Question(
        id=f"diagrams-{split}-{name}-{index}",
        text=item.text,
        choices=choices,
        answer=position,
        image=partial(draw_picture, name, split, index),
        image_id=f"diagrams-{split}-{name}-{index}",
        hint=item.hint,
        subject=family.subject,
        topic=family.topic,
        grade=family.grade,
        split=split,
        family=name,
    )
