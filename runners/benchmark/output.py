"""What a benchmark shows and writes: a bar while it runs, a table for each part, a parquet file and a figure."""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LINE_SECONDS = 20.0
BAR_WIDTH = 30
FILE_WIDTH = 160


class Bar:
    """Progress with the time that is left, on standard error; where nobody watches, a line now and then."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.began = self.spoke = time.monotonic()
        self.live = sys.stderr.isatty()

    def tick(self) -> None:
        """One more of them is done."""
        self.done += 1
        now = time.monotonic()
        left = (now - self.began) / self.done * (self.total - self.done)
        line = f"part {self.title}  {self.done}/{self.total}  ETA {left:.0f} s"
        if self.live:
            filled = BAR_WIDTH * self.done // self.total
            end = "\n" if self.done == self.total else ""
            print(f"\r[{'#' * filled:<{BAR_WIDTH}}] {line} ", end=end, file=sys.stderr, flush=True)
        elif now - self.spoke >= LINE_SECONDS:
            self.spoke = now
            print(line, file=sys.stderr, flush=True)


def print_table(title: str, columns: Sequence[tuple[str, str, str]], rows: Sequence[Row]) -> None:
    """columns: a heading, the row's key (of a dictionary of quartiles the median is shown), a format."""
    headings = [heading for heading, _, _ in columns]
    cells = [[_cell(row.get(key), form) for _, key, form in columns] for row in rows]
    rich_table = _optional("rich.table")
    if rich_table is None:
        print(title)
        widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        for line in [headings, *cells]:
            print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
        return
    table = rich_table.Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    console = importlib.import_module("rich.console").Console
    # Nothing is cut off where nobody's window sets a width.
    console(width=None if console().is_terminal else FILE_WIDTH).print(table)


def _cell(value: Any, form: str) -> str:
    if isinstance(value, dict):
        value = value["p50"]
    if value is None:
        return "-"
    return str(value) if isinstance(value, str) else format(value, form)


def write_parquet(parts: dict[str, list[Row]], path: Path) -> Path | None:
    """All rows of all parts in one table, a column for each quartile; None where pandas and pyarrow are missing."""
    pandas = _optional("pandas")
    if pandas is None or _optional("pyarrow") is None:
        return None
    rows = [{"part": part} | _flat(row) for part, found in parts.items() for row in found]
    pandas.DataFrame(rows).to_parquet(path, index=False)
    return path


def _flat(row: Row) -> Row:
    flat: Row = {}
    for key, value in row.items():
        flat |= {f"{key}_{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def draw_speedups(rows: Sequence[Row], caption: str, path: Path) -> Path | None:
    """Measured speed-up of the time to the first token over the one that the operations imply, a panel for each
    agg_layer; None where matplotlib is missing or there is nothing to draw."""
    rows = [row for row in rows if row.get("kept") is not None and "error" not in row]
    if not rows or _optional("matplotlib") is None:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from analysis.style import RC

    layers = sorted({row["agg_layer"] for row in rows})
    largest = max(max(row["implied"], row["speedup"]) for row in rows) * 1.15
    with rc_context(RC):
        figure = Figure(figsize=(3.2 * len(layers) + 0.6, 3.5), layout="constrained")
        axes = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
        for axis, layer in zip(axes, layers, strict=True):
            _draw_layer(axis, [row for row in rows if row["agg_layer"] == layer])
            axis.plot([0, largest], [0, largest], color="0.6", linewidth=0.8, linestyle=":")
            axis.axhline(1, color="0.6", linewidth=0.8)
            axis.set(xlim=(0, largest), ylim=(0, largest), title=f"agg_layer {layer}", xlabel="implied by FLOPs")
        axes[0].set_ylabel("measured speed-up of the prefill")
        axes[0].legend(loc="upper left")
        figure.suptitle(f"{caption}; numbers are kept", fontsize=8)
        figure.savefig(path)
    return path


def _draw_layer(axis: Any, rows: Sequence[Row]) -> None:
    """A line for each method; kept is written at the first one's points."""
    from analysis.style import method_style

    names = list(dict.fromkeys(row["name"] for row in rows))
    for name in names:
        here = sorted((row for row in rows if row["name"] == name), key=lambda row: row["kept"])
        implied, measured = [row["implied"] for row in here], [row["speedup"] for row in here]
        style, masked = method_style(here[0]["method"]), here[0]["layout"] == "mask"
        axis.plot(
            implied,
            measured,
            color=style.color,
            marker=style.marker,
            linestyle="none" if masked else style.line,
            markerfacecolor="white" if masked else style.color,
            label=name,
        )
        if name == names[0]:
            for row, x, y in zip(here, implied, measured, strict=True):
                axis.annotate(row["kept"], (x, y), (0, -11), textcoords="offset points", ha="center", fontsize=7)


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
