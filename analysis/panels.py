"""The contents of a figure, independent of the library that draws it."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

Part = TypeVar("Part")


@dataclass(frozen=True)
class Series:
    """The points of one method, or of one setting of it.

    name        text of the legend
    method      decides the colour, marker and line
    x, y        the points
    y_limits    (low, high) of each point's interval; x_limits likewise, empty if x has no intervals
    hover       plain text for each point, shown under the pointer on a web page
    marks       text beside each point; may be empty
    hollow      whether each marker is hollow; empty if none is
    joined      whether a line joins the points
    strength    opacity, from 0 to 1
    """

    name: str
    method: str
    x: list[float]
    y: list[float]
    y_limits: list[tuple[float, float]]
    hover: list[str]
    x_limits: list[tuple[float, float]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    hollow: list[bool] = field(default_factory=list)
    joined: bool = True
    strength: float = 1.0


@dataclass(frozen=True)
class Panel:
    """Series on one pair of axes.

    levels      horizontal lines: (name, y, line style in matplotlib's notation)
    ticks       of the x axis: (x, text); empty for automatic ticks
    log         whether the x axis is logarithmic
    front       corners of the Pareto front, by rising x
    """

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    levels: list[tuple[str, float, str]] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    log: bool = False
    front: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Grid:
    """One heat map. values[layer][temperature] is in percent, None where there is no point; texts label the cells."""

    title: str
    layers: list[int]
    temperatures: list[float]
    values: list[list[float | None]]
    texts: list[list[str]]


@dataclass(frozen=True)
class Bars:
    """A pair of bars for each point: answers that became wrong, left of zero, and answers that became right.

    n           questions, as text
    labels      name of each point
    lost, won   (share, low, high) in percent
    counts      (lost, won) as numbers of answers
    """

    title: str
    n: str
    labels: list[str]
    methods: list[str]
    lost: list[tuple[float, float, float]]
    won: list[tuple[float, float, float]]
    counts: list[tuple[int, int]]


@dataclass(frozen=True)
class Chart(Generic[Part]):
    """All panels of a figure, and a note to show below them."""

    panels: list[Part]
    note: str = ""
