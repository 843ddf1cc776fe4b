"""The style of each method, a colour, a marker and a line, which is the same in every figure."""

import hashlib
from dataclasses import dataclass
from itertools import product
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can distinguish. Its yellow is left out: too pale on white.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
GREY, BLACK = "#8A8A8A", "#000000"

# plotly's names of matplotlib's markers and lines.
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
_SYMBOLS |= {"X": "x", "*": "star", ">": "triangle-right", "<": "triangle-left", "p": "pentagon", "h": "hexagon"}
_SYMBOLS |= {"d": "diamond-tall", "8": "octagon"}
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}


@dataclass(frozen=True)
class MethodStyle:
    """color as #RRGGBB; marker and line in matplotlib's notation."""

    color: str
    marker: str
    line: str

    @property
    def symbol(self) -> str:
        """The marker's name in plotly."""
        return _SYMBOLS[self.marker]

    @property
    def dash(self) -> str:
        """The line's name in plotly."""
        return _DASHES[self.line]


STYLES = {
    "full": MethodStyle(BLACK, "*", "-"),
    "no_image": MethodStyle(BLACK, "X", "--"),
    "downsample": MethodStyle(BLACK, "s", ":"),
    "fps": MethodStyle(BLUE, "o", "-"),
    "tome": MethodStyle(VERMILLION, "s", "-"),
    "fastv": MethodStyle(GREEN, "^", "-"),
    "density": MethodStyle(PURPLE, "v", "-"),
    "tome_merge": MethodStyle(ORANGE, "P", "-"),
    "himap": MethodStyle(SKY, "X", "-"),
    "pyramiddrop": MethodStyle(BLUE, "*", "--"),
    "sparsevlm": MethodStyle(VERMILLION, ">", "--"),
    "dart": MethodStyle(GREEN, "<", "--"),
    "divprune": MethodStyle(PURPLE, "D", "--"),
    "cdpruner": MethodStyle(ORANGE, "o", "--"),
    "visionzip": MethodStyle(SKY, "s", "--"),
    "prumerge": MethodStyle(BLUE, "^", ":"),
    "prumerge_plus": MethodStyle(VERMILLION, "v", ":"),
    "vispruner": MethodStyle(GREEN, "s", ":"),
    "fastervlm": MethodStyle(PURPLE, "P", ":"),
    "scope": MethodStyle(ORANGE, "^", ":"),
    "holov": MethodStyle(SKY, "D", ":"),
    "prunesid": MethodStyle(BLUE, "<", ":"),
    "mmtok": MethodStyle(VERMILLION, "o", ":"),
    "apet": MethodStyle(GREEN, "v", ":"),
    "vscan": MethodStyle(PURPLE, "X", ":"),
    "flowcut": MethodStyle(ORANGE, "<", ":"),
    "feather": MethodStyle(SKY, ">", ":"),
    "pact": MethodStyle(BLUE, "P", ":"),
    "temporal_merge": MethodStyle(VERMILLION, "X", ":"),
    "fastvid": MethodStyle(GREEN, "P", ":"),
    "semantic": MethodStyle(BLUE, "D", "-"),
    "random": MethodStyle(GREY, "D", "-"),
    "grid": MethodStyle(GREY, "s", "--"),
    "pool": MethodStyle(GREY, "o", ":"),
}
# Styles for users' own methods. Their markers occur in none of the styles above.
_USER_STYLES = [
    MethodStyle(color, marker, "-.")
    for marker, color in product(("p", "h", "d", "8"), (PURPLE, ORANGE, SKY, BLUE, VERMILLION, GREEN))
]
RC: Any = {  # matplotlib types rcParams by listing every possible key
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,  # keeps text searchable and editable
    "savefig.dpi": 150,
}


def method_style(name: str) -> MethodStyle:
    """Returns the style of a method. It depends on the name alone, so it is the same in every figure and process."""
    if name in STYLES:
        return STYLES[name]
    return _USER_STYLES[int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(_USER_STYLES)]
