"""A table as wide as the terminal: columns that find no room are left out by importance, and nothing is cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Characters between two columns.
BETWEEN = 2
# The importance of columns without which two lines may look the same.
TELLS_LINES_APART = 100


@dataclass(frozen=True)
class Column:
    """A column of a table.

    header: may have two lines. importance: on a narrow terminal the lowest go first; None: never. short: cells that
    take less room, and their header, for a column that never goes.
    """

    name: str
    header: str
    cells: Sequence[str]
    importance: int | None = None
    short: "Column | None" = None

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (*self.header.split("\n"), *self.cells))


def fit(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """The columns that fit in this width, and the names of those left out. Those that never go may be wider.

    Columns go by importance, but before any that tells lines apart goes, others take less room.
    """
    shown = list(columns)
    expendable = sorted(
        (each for each in columns if each.importance is not None), key=lambda each: each.importance or 0
    )
    left_out = []
    for least in expendable:
        if total_width(shown) > width and (least.importance or 0) >= TELLS_LINES_APART:
            shown = [each.short or each for each in shown]
        if total_width(shown) <= width:
            break
        shown.remove(least)
        left_out.append(least)
    if total_width(shown) > width:
        shown = [each.short or each for each in shown]
    return shown, [each.name for each in columns if each in left_out]


def total_width(columns: Sequence[Column]) -> int:
    """Characters in a line of the table."""
    return sum(each.width for each in columns) + BETWEEN * (len(columns) - 1)


def print_columns(columns: Sequence[Column], console: Console) -> list[str]:
    """Prints the columns that fit the console, and says which do not. Returns the names of those."""
    shown, left_out = fit(columns, console.width)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, BETWEEN - 1, 0, 0))
    for place, column in enumerate(shown):
        table.add_column(Text(column.header), justify="right" if place else "left", no_wrap=True)
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(Text, row))
    if total_width(shown) > console.width:  # rich would cut names; like this, the terminal wraps lines
        console = Console(width=total_width(shown), file=console.file)
    console.print(table)
    console.print()
    if left_out:
        console.print(
            f"No room for: {', '.join(left_out)}. A wider window shows them; the files have them.", highlight=False
        )
    return left_out
