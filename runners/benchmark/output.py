"""What a benchmark prints and writes: a progress bar, a table for each part, a parquet file and a figure."""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A line of a part's table; times are dictionaries of quartiles.
TableRow = dict[str, Any]
LINE_SECONDS = 20.0
BAR_WIDTH = 30
FILE_WIDTH = 160
TITLES = {
    "a": "selection and aggregation, milliseconds",
    "b": "one prompt, milliseconds",
    "c": "a sweep",
    "d": "loading pictures",
}
# For each part: (heading, key of the line, format).
COLUMNS: dict[str, list[tuple[str, str, str]]] = {
    "a": [
        ("function", "function", ""),
        ("tokens", "tokens", ""),
        ("hidden", "hidden", ""),
        ("kept", "kept", ""),
        ("literal", "literal_ms", ".2f"),
        ("ours", "ours_ms", ".2f"),
        ("ratio", "ratio", ".2f"),
        ("same", "same", ""),
    ],
    "b": [
        ("method", "name", ""),
        ("kept", "kept", ""),
        ("layer", "agg_layer", ""),
        ("prefill", "prefill_ms", ".1f"),
        ("select", "select_ms", ".1f"),
        ("decode", "decode_ms", ".1f"),
        ("speed-up", "speedup", ".2f"),
        ("implied", "implied", ".2f"),
        ("of implied", "measured_over_implied", ".0%"),
        ("causal", "implied_causal", ".2f"),
        ("of causal", "measured_over_causal", ".0%"),
        ("roofline", "roofline_ms", ".1f"),
        ("cache MiB", "kv_mib", ".1f"),
        ("peak MiB", "peak_mib", ".0f"),
    ],
    "c": [
        ("run", "run", ""),
        ("questions", "questions", ""),
        ("points", "points", ""),
        ("seconds", "seconds", ".2f"),
        ("over full", "over_full", ".2f"),
        ("over half", "over_half", ".2f"),
        ("peak MiB", "peak_mib", ".0f"),
        ("growth MiB", "growth_mib", ".1f"),
    ],
    "d": [
        ("questions", "questions", ""),
        ("pictures", "pictures", ""),
        ("seconds", "seconds", ".2f"),
        ("questions/s", "questions_per_s", ".1f"),
    ],
}
# On a narrow terminal, the first of these keys go first.
FIRST_TO_GO = (
    *("kv_mib", "peak_mib", "growth_mib", "roofline_ms", "measured_over_causal", "implied_causal", "select_ms"),
    *("measured_over_implied", "implied", "decode_ms", "over_half", "literal_ms"),
)
# Keys in bytes, and the keys of their columns in MiB.
_MIB = {
    "kv_bytes": "kv_mib",
    "peak_memory_bytes": "peak_mib",
    "peak_bytes": "peak_mib",
    "peak_growth_bytes": "growth_mib",
}


def announce(what: str) -> None:
    """Says on a terminal what is being done; the next line takes its place."""
    if sys.stderr.isatty():
        print(f"\r{what} ...", end="\r", file=sys.stderr, flush=True)


class Bar:
    """Progress with the remaining time on standard error: a bar on a terminal, otherwise a line every 20 seconds."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.began = self.printed = time.monotonic()
        self.on_terminal = sys.stderr.isatty()

    def tick(self) -> None:
        """Counts one more run."""
        self.done += 1
        now = time.monotonic()
        left = (now - self.began) / self.done * (self.total - self.done)
        line = f"part {self.title}  {self.done}/{self.total}  ETA {left:.0f} s"
        if self.on_terminal:
            filled = BAR_WIDTH * self.done // self.total
            end = "\n" if self.done == self.total else ""
            print(f"\r[{'#' * filled:<{BAR_WIDTH}}] {line} ", end=end, file=sys.stderr, flush=True)
        elif now - self.printed >= LINE_SECONDS:
            self.printed = now
            print(line, file=sys.stderr, flush=True)


def print_part(part: str, lines: Sequence[TableRow]) -> None:
    """Prints a part's lines as a table, without columns that have no value, and the errors below it."""
    lines = [line | {new: _mib(line.get(old)) for old, new in _MIB.items() if old in line} for line in lines]
    columns = [column for column in COLUMNS[part] if any(line.get(column[1]) is not None for line in lines)]
    print(f"{part}: {TITLES[part]}")
    cells = [(key, heading, [_cell(line.get(key), form) for line in lines]) for heading, key, form in columns]
    if _optional("rich.table") is None:
        _print_plainly([[heading, *column] for _, heading, column in cells])
    else:
        _print_fitting(cells)
    for line in lines:
        if line.get("error"):
            print(f"failed: {line['name']} kept={line['kept']} agg_layer={line['agg_layer']}: {line['error']}")


def _print_plainly(columns: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in columns]
    for line in zip(*columns, strict=True):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _print_fitting(cells: list[tuple[str, str, list[str]]]) -> None:
    """The columns that fit the terminal. Elsewhere there is no width to fit into, and nothing is left out."""
    columns: Any = importlib.import_module("runners.terminal.columns")  # imports rich, which may be missing
    console = importlib.import_module("rich.console").Console
    order = {key: place for place, key in enumerate(FIRST_TO_GO)}
    fitting = [columns.Column(heading, heading, column, order.get(key)) for key, heading, column in cells]
    columns.print_columns(fitting, console(width=None if console().is_terminal else FILE_WIDTH))


def _mib(count: int | None) -> float | None:
    return None if count is None else count / 2**20


def _cell(value: Any, form: str) -> str:
    """The formatted value; of quartiles the median."""
    if isinstance(value, dict):
        value = value["p50"]
    if value is None:
        return "-"
    return str(value) if isinstance(value, str) else format(value, form)


def write_parquet(parts: dict[str, list[TableRow]], path: Path) -> Path | None:
    """Writes the lines of all parts into one table, a column per quartile. None if pandas or pyarrow is missing."""
    pandas = _optional("pandas")
    if pandas is None or _optional("pyarrow") is None:
        return None
    lines = [{"part": part} | _flat(line) for part, found in parts.items() for line in found]
    pandas.DataFrame(lines).to_parquet(path, index=False)
    return path


def _flat(line: TableRow) -> TableRow:
    flat: TableRow = {}
    for key, value in line.items():
        flat |= {f"{key}_{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def draw_speedups(rows: Sequence[TableRow], caption: str, path: Path) -> Path | None:
    """Draws the measured speed-up of the prefill over the speed-up that FLOPs imply, a panel per agg_layer.

    Returns None if matplotlib is missing or there is nothing to draw.
    """
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
        figure.suptitle(f"{caption}; labels: kept", fontsize=8)
        figure.savefig(path)
    return path


def _draw_layer(axis: Any, rows: Sequence[TableRow]) -> None:
    """Draws a line per method; the points of the first method are labelled with kept."""
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
