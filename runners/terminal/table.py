"""The final table of a sweep: a row per grid point, paired tests, and which method is best at each kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tokensel.data.protocol import CHOICES
from tokensel.evaluation.statistics import mcnemar_exact
from tokensel.evaluation.summary import NEAR_TIE

if TYPE_CHECKING:
    import pandas as pd

# Settings that get a column only where rows differ in them.
OPTIONAL = (
    "model",
    "data",
    "scoring",
    *CHOICES,
    "limit",
    "stages",
    "agg_layer",
    "temperature",
    "aggregation",
    "layout",
    "position",
    "seed",
)
_DASH = "-"


@dataclass
class Result:
    """One row. setting: what the columns show; metrics: the stored figures, for this row's questions;
    correct: by question id; error: why the point failed, or ""."""

    key: str
    setting: dict[str, Any]
    metrics: dict[str, Any]
    correct: dict[str, bool]
    chance: float
    error: str = ""

    @property
    def pool(self) -> tuple[str, ...]:
        """Rows of one pool were asked the same questions of the same model in the same way."""
        return tuple(str(self.setting[name]) for name in ("model", "data", "scoring", *CHOICES, "limit"))

    @property
    def compared_at(self) -> int | None:
        """The kept at which this row competes; None for full, no_image and failed points."""
        return None if self.error or self.setting["method"] in ("full", "no_image") else self.setting["kept"]


def compare(one: Result, other: Result) -> dict[str, float] | None:
    """Exact McNemar over the questions both answered: difference in percentage points (one - other) and
    p_value."""
    shared = [id for id in one.correct if id in other.correct]
    if not shared:
        return None
    a, b = [one.correct[id] for id in shared], [other.correct[id] for id in shared]
    return {
        "difference": 100 * (sum(a) - sum(b)) / len(shared),
        "p_value": float(mcnemar_exact(a, b).p_value),
    }


def against_fastv(result: Result, results: Sequence[Result]) -> dict[str, float] | None:
    """The row against fastv at the same kept and layout, and at the same layer if it was run there; None for fastv
    itself and where there is none."""
    if result.compared_at is None or result.setting["method"] == "fastv":
        return None
    fastv = [
        other
        for other in results
        if other.setting["method"] == "fastv"
        and other.compared_at == result.compared_at
        and other.pool == result.pool
        and other.setting["layout"] == result.setting["layout"]
    ]
    beside = [other for other in fastv if other.setting["agg_layer"] == result.setting["agg_layer"]]
    nearest = beside or sorted(fastv, key=lambda other: other.setting["agg_layer"])
    return compare(result, nearest[0]) if nearest else None


def best_at_each_kept(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For every pool and kept: the most accurate row, the runner-up of another method, and their McNemar
    p-value."""
    varying = varying_columns(results)
    best = []
    competing = [result for result in results if result.compared_at is not None and result.metrics.get("n")]
    order: Callable[[Result], tuple] = lambda result: (result.pool, result.compared_at)  # noqa: E731
    for (_, kept), same in groupby(sorted(competing, key=order), key=order):
        # On equal accuracy the name decides, so that the same results always give the same line.
        ranked = sorted(same, key=lambda result: (-result.metrics["accuracy"], result.setting["method"], result.key))
        first = ranked[0]
        second = next((r for r in ranked if r.setting["method"] != first.setting["method"]), None)
        best.append(
            {
                "kept": kept,
                "method": first.setting["method"],
                "where": {name: first.setting.get(name) for name in varying},
                "accuracy": first.metrics["accuracy"],
                "runner_up": second.setting["method"] if second else None,
                "p_value": _value(compare(first, second), "p_value") if second else None,
            }
        )
    return best


def varying_columns(results: Sequence[Result]) -> list[str]:
    """The optional settings, method options included, in which two rows of one method differ.

    Between methods they differ by nature: fps puts survivors in front, fastv leaves them in their place.
    """
    options = sorted({name for result in results for name in result.setting if name.startswith("method.")})
    return [name for name in (*OPTIONAL, *options) if _varies(name, results)]


def _varies(name: str, results: Sequence[Result]) -> bool:
    values: dict[str, set[str]] = {}
    for result in results:
        values.setdefault(result.setting["method"], set()).add(json.dumps(result.setting.get(name)))
    return any(len(distinct) > 1 for distinct in values.values())


def as_record(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    """A row's settings and figures as one flat dictionary: a row of the parquet, and of the JSON line."""
    figures: dict[str, Any] = {}
    for name, value in result.metrics.items():
        if name.endswith("_ms"):
            figures |= {f"{name}_{quartile}": (value or {}).get(quartile) for quartile in ("p25", "p50", "p75")}
        elif name == "yes_no":
            figures |= {f"yes_no_{part}": figure for part, figure in value.items() if not isinstance(figure, dict)}
        elif not isinstance(value, dict | list):
            figures[name] = value
    fastv = against_fastv(result, results)
    return {
        "key": result.key,
        **result.setting,
        **figures,
        "chance": result.chance,
        "vs_fastv_points": _value(fastv, "difference"),
        "vs_fastv_p": _value(fastv, "p_value"),
        "error": result.error,
    }


def as_frame(results: Sequence[Result]) -> "pd.DataFrame":
    """The whole sweep, one row per grid point."""
    import pandas as pd  # slow to import, and only wanted here

    frame = pd.DataFrame([as_record(result, results) for result in results])
    for column in frame.columns:
        # Options such as fps's start mix words and numbers, which parquet has no type for.
        if frame[column].map(type).nunique() > 1 and frame[column].map(lambda value: isinstance(value, str)).any():
            frame[column] = frame[column].map(lambda value: None if pd.isna(value) else str(value))
    return frame


def caption(results: Sequence[Result]) -> str:
    """What the table's columns mean, and what to know of these rows."""
    chances = {f"{result.setting['data']} {100 * result.chance:.1f}%" for result in results}
    told = f"Chance: {', '.join(sorted(chances))}."
    told += " vs fastv: percentage points at the same kept, exact McNemar p."
    told += " Speed-up and FLOPs ratio: prefill with the vision tower, over the full model."
    if skipped := max((result.metrics["skipped"] for result in results), default=0):
        told += f" Skipped: {skipped} questions."
    if near := max((result.metrics["near_ties"] or 0 for result in results), default=0):
        told += f"\nNear ties, with a margin below {NEAR_TIE:g}: up to {near} questions per point."
    return told


def print_table(results: Sequence[Result], notes: str, console: Console | None = None) -> None:
    """Prints the table to standard output, below it the notes, `caption`'s, and the best method at each kept."""
    # Beyond a terminal, rich would fold the table at 80 columns.
    console = console or Console(width=None if Console().is_terminal else 200)
    varying = varying_columns(results)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    own = [name for name in ("score", "F1") if any(_own_figure(result, name) is not None for result in results)]
    names = ["method", "kept", *varying, "tokens/layer", "n", "accuracy % [95%]", *own, "vs fastv", "p"]
    names += ["prefill ms", "speed-up", "FLOPs ratio", "KV"]
    for name in names:
        table.add_column(name.removeprefix("method."), justify="left" if name == "method" else "right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result, results, varying, own))
    console.print(table)
    console.print(notes, highlight=False)
    for best in best_at_each_kept(results):
        where = ", ".join(f"{name} {value}" for name, value in best["where"].items() if value is not None)
        line = f"kept {best['kept']}: best is {best['method']}{f' ({where})' if where else ''}"
        line += f" at {100 * best['accuracy']:.1f}%"
        if best["runner_up"]:
            line += f", runner-up {best['runner_up']}, McNemar p = {_probability(best['p_value'])}"
        console.print(line, highlight=False, markup=False)


def _own_figure(result: Result, name: str) -> float | None:
    """score: MME's, of 2800; F1: POPE's, in percent. None where a data set has no such figure."""
    figures = result.metrics.get("yes_no", {})
    if name == "score":
        parts = [figures.get("perception"), figures.get("cognition")]
        return None if None in parts else sum(parts)
    return None if figures.get("f1") is None else 100 * figures["f1"]


def _cells(result: Result, results: Sequence[Result], varying: Sequence[str], own: Sequence[str]) -> list[str]:
    figures, fastv = result.metrics, against_fastv(result, results)
    interval = _DASH
    if figures.get("accuracy") is not None:
        low, high = 100 * figures["ci_low"], 100 * figures["ci_high"]
        interval = f"{100 * figures['accuracy']:.1f} \\[{low:.1f}, {high:.1f}]"
    prefill = (figures.get("prefill_ms") or {}).get("p50")
    return [
        result.setting["method"],
        _text(result.setting["kept"]),
        *(_text(result.setting.get(name)) for name in varying),
        _number(figures.get("tokens_layer_mean"), ".1f"),
        _text(figures.get("n")),
        "failed" if result.error else interval,
        *(_number(_own_figure(result, name), ".1f") for name in own),
        _number(_value(fastv, "difference"), "+.1f"),
        _probability(_value(fastv, "p_value")),
        _number(prefill, ".1f"),
        _number(figures.get("speedup"), ".2f") + ("x" if figures.get("speedup") is not None else ""),
        _number(figures.get("flops_ratio"), ".3f"),
        _bytes(figures.get("kv_bytes")),
    ]


def _value(pair: dict[str, float] | None, name: str) -> float | None:
    return None if pair is None else pair[name]


def _text(value: Any) -> str:
    return _DASH if value is None else str(value)


def _number(value: float | None, form: str) -> str:
    return _DASH if value is None else format(value, form)


def _probability(value: float | None) -> str:
    if value is None:
        return _DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _bytes(count: float | None) -> str:
    if count is None:
        return _DASH
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
