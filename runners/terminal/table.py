"""Prints the final table of a sweep."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from tokensel.evaluation.summary import NEAR_TIE
from tokensel.evaluation.sweep.ranking import comparisons_of, sentences
from tokensel.evaluation.sweep.results import EQUAL_COST, against_fastv, value_of, varying_columns
from tokensel.evaluation.sweep.rows import TableRow

_DASH = "-"
# Characters that rich puts between two columns of this form.
_BETWEEN = 3
# Columns that a narrow terminal does without, the first of them first. What a point costs goes last.
_FIRST_TO_GO = ("KV", "prefill ms", "speed-up", "n", "p", "vs fastv", "F1", "score", "tokens/layer", "left")


def caption(results: Sequence[TableRow]) -> str:
    """Notes below the table: what its columns mean, the chance level, skipped questions and near ties."""
    chances = {f"{row.setting['data']} {100 * row.chance:.1f}%" for row in results if row.chance is not None}
    budgets = dict.fromkeys(each for row in results for each in row.budgets)
    notes = (
        f"Chance: {', '.join(sorted(chances)) or 'unknown'}. vs fastv: percentage points on the same questions at the"
    )
    notes += f" same {'budget' if budgets else 'kept'}, exact McNemar p."
    if any(_costs_differ(against_fastv(row, results)) for row in results):
        notes += f" *: FLOPs more than {100 * EQUAL_COST:.0f}% from fastv's."
    if seeds := dict.fromkeys(f"{row.setting['method']} {row.setting['seeds']}" for row in results if row.keys[1:]):
        notes += f"\n±: standard deviation over seeds ({'; '.join(seeds)}). Accuracy is then their mean, its interval"
        notes += " is over questions and seeds, and p a sign-flip test's."
    notes += "\nprefill ms: median time to the first token. Speed-up: median of the full model's time over the point's,"
    notes += " timed in turn, so that a busy machine slows both; it is not the ratio of the medians."
    notes += " FLOPs ratio: prefill with the vision tower, over the full model."
    if any(row.metrics.get("selection_counted") is False for row in results):
        notes += " >: the method has no flops(), so its choice counts as free."
    if budgets:
        notes += f"\nkept is solved for the budget {', '.join(budgets)}."
    notes += "\nleft: visual tokens after the last stage; tokens/layer: averaged over the decoder's layers."
    if skipped := max((row.metrics.get("skipped") or 0 for row in results), default=0):
        notes += f" Skipped: {skipped} questions."
    if any(row.superseded for row in results):
        notes += "\nPoints of earlier code are listed with their code, but not compared."
    worst = max(results, key=lambda row: row.metrics.get("n_ties") or 0, default=None)
    if worst is not None and (ties := worst.metrics.get("n_ties")):
        notes += f"\nUp to {ties} of {worst.metrics['n']} answers hang on a tie, of the best two logits (margin below "
        notes += f"{NEAR_TIE:g}) or of the chosen tokens: rounding may change them."
    return notes


def print_table(results: Sequence[TableRow], notes: str, console: Console | None = None) -> None:
    """Prints the table, the notes below it (see `caption`), and which lines are best or tie, to standard output."""
    # Where standard output is no terminal, rich would wrap the table at 80 columns.
    console = console or Console(width=None if Console().is_terminal else 200)
    varying = varying_columns(results)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    own = [name for name in ("score", "F1") if any(_own_figure(result, name) is not None for result in results)]
    names = ["method", "kept", *varying, "left", "tokens/layer", "n", "accuracy % [95%]", *own, "vs fastv", "p"]
    names += ["prefill ms", "speed-up", "FLOPs ratio", "KV"]
    rows = [_cells(result, results, varying, own) for result in results]
    # Where points answered different numbers of questions, n must be seen.
    needed = {"n"} if len({result.metrics.get("n") for result in results if not result.error}) > 1 else set()
    shown = _fitting(names, rows, console.width, needed)
    for name in shown:
        table.add_column(name.removeprefix("method."), justify="left" if name == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell for name, cell in zip(names, row, strict=True) if name in shown))
    console.print(table)
    if len(shown) < len(names):
        dropped = [name.removeprefix("method.") for name in names if name not in shown]
        console.print(f"No room for {', '.join(dropped)}: in a wider window, or in the files.", highlight=False)
    console.print(notes, highlight=False)
    told = sentences(results)
    if told:
        count = comparisons_of(results)
        note = (
            f"Best on the same questions; tie: not significantly behind the first (p corrected for {count} comparisons)"
        )
        console.print(f"{note}:", highlight=False)
    for line in told:
        console.print(f"  {line}", highlight=False, markup=False)


def _fitting(names: Sequence[str], rows: Sequence[Sequence[str]], width: int, needed: set[str]) -> list[str]:
    """The columns that fit in this width, the least important left out first, and those needed in any case."""
    shown = list(names)
    widths = {
        name: max(len(name.removeprefix("method.")), *(cell_len(cell.replace("\\", "")) for cell in column))
        for name, *column in zip(names, *rows, strict=True)
    }
    for name in _FIRST_TO_GO:
        if sum(widths[each] + _BETWEEN for each in shown) <= width:
            break
        if name in shown and name not in needed:
            shown.remove(name)
    return shown


def _own_figure(result: TableRow, name: str) -> float | None:
    """score: MME's, out of 2800. F1: POPE's, in percent. None for other data sets."""
    figures = result.metrics.get("yes_no", {})
    if name == "score":
        parts = [figures.get("perception"), figures.get("cognition")]
        return None if None in parts else sum(parts)
    return None if figures.get("f1") is None else 100 * figures["f1"]


def _cells(result: TableRow, results: Sequence[TableRow], varying: Sequence[str], own: Sequence[str]) -> list[str]:
    figures, fastv = result.metrics, against_fastv(result, results)
    interval = _DASH
    if figures.get("accuracy") is not None:
        low, high = 100 * figures["ci_low"], 100 * figures["ci_high"]
        spread = figures.get("accuracy_sd")
        spread = "" if spread is None else f" ±{100 * spread:.1f}"
        interval = f"{100 * figures['accuracy']:.1f}{spread} \\[{low:.1f}, {high:.1f}]"
    prefill = (figures.get("prefill_ms") or {}).get("p50")
    return [
        result.setting["method"],
        _text(result.setting["kept"]),
        *(_text(_short(name, result.setting.get(name))) for name in varying),
        _text(figures.get("tokens_left")),
        _number(figures.get("tokens_layer_mean"), ".1f"),
        _text(figures.get("n")),
        "failed" if result.error else interval,
        *(_number(_own_figure(result, name), ".1f") for name in own),
        _number(value_of(fastv, "difference"), "+.1f") + ("*" if _costs_differ(fastv) else ""),
        _probability(value_of(fastv, "p_value")),
        _number(prefill, ".1f"),
        _number(figures.get("speedup"), ".2f") + ("x" if figures.get("speedup") is not None else ""),
        (">" if figures.get("selection_counted") is False else "") + _number(figures.get("flops_ratio"), ".3f"),
        _bytes(figures.get("kv_bytes")),
    ]


def _costs_differ(fastv: dict[str, float] | None) -> bool:
    cost = value_of(fastv, "cost")
    return cost is not None and max(cost, 1 / cost) > 1 + EQUAL_COST


def _short(name: str, value: Any) -> Any:
    return value[:6] if name == "code" and value else value


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
