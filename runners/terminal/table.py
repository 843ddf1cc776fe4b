"""Prints the final table of a sweep."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console

from runners.terminal.columns import TELLS_LINES_APART, Column, print_columns
from tokensel.evaluation.summary import NEAR_TIE
from tokensel.evaluation.sweep.ranking import comparisons_of, sentences
from tokensel.evaluation.sweep.results import EQUAL_COST, against_fastv, agreement_with_full, value_of, varying_columns
from tokensel.evaluation.sweep.rows import TableRow

_DASH = "-"
# So many figures of a benchmark have columns; metrics.json has all.
_MOST_FIGURES = 3


def caption(results: Sequence[TableRow], hidden: Collection[str] = ()) -> str:
    """Notes below the table: what its columns mean, the chance level, skipped questions and near ties.

    hidden: names of columns that are not shown, and so need no note.
    """
    asked: dict[str, int] = {}
    for row in results:
        asked[row.setting["data"]] = max(row.asked, asked.get(row.setting["data"], 0))
    most = [row for row in results if row.asked == asked[row.setting["data"]]]
    chances = {f"{row.setting['data']} {100 * row.chance:.1f}%" for row in most if row.chance is not None}
    budgets = dict.fromkeys(each for row in results for each in row.budgets)
    first = [f"Chance: {', '.join(sorted(chances)) or 'unknown'}."]
    if "vs fastv" not in hidden:
        at = "budget" if budgets else "kept"
        test = "p of a paired bootstrap, as answers are right in part" if _is_soft(results) else "exact McNemar p"
        first.append(f"vs fastv: percentage points on the same questions at the same {at}, {test}.")
        if any(_costs_differ(against_fastv(row, results)) for row in results):
            first.append(f"*: FLOPs more than {100 * EQUAL_COST:.0f}% from fastv's.")
    if "like full %" not in hidden:
        first.append("like full: answers that equal the full model's, right or wrong.")
    paragraphs = [first, _about_seeds(results), _about_times(results, hidden), _about_tokens(hidden)]
    if budgets:
        paragraphs.append([f"kept is solved for the budget {', '.join(budgets)}."])
    if skipped := max((row.metrics.get("skipped") or 0 for row in results), default=0):
        paragraphs.append([f"Skipped: {skipped} questions."])
    if any(row.superseded for row in results):
        paragraphs.append(["Points of earlier code are listed with their code, but not compared."])
    worst = max(results, key=lambda row: row.metrics.get("n_ties") or 0, default=None)
    if worst is not None and (ties := worst.metrics.get("n_ties")):
        told = f"Up to {ties} of {worst.metrics['n']} answers hang on a tie, of the best two logits (margin below "
        paragraphs.append([f"{told}{NEAR_TIE:g}) or of the chosen tokens: rounding may change them."])
    return "\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


def _is_soft(results: Sequence[TableRow]) -> bool:
    """Whether some answers are right in part."""
    return any(answers.correct.dtype != bool for row in results for answers in row.answers)


def _about_seeds(results: Sequence[TableRow]) -> list[str]:
    seeds = dict.fromkeys(f"{row.setting['method']} {row.setting['seeds']}" for row in results if row.keys[1:])
    alone = any(row.setting["method"] == "random" and not row.keys[1:] and not row.error for row in results)
    one = ["random without ±: one seed; control_seeds=3 gives it three."] if alone else []
    if not seeds:
        return one
    return [
        f"±: standard deviation over seeds ({'; '.join(seeds)}).",
        "Accuracy is then their mean, its interval is over questions and seeds, and p a sign-flip test's.",
        *one,
    ]


def _about_times(results: Sequence[TableRow], hidden: Collection[str]) -> list[str]:
    notes = {
        "prefill ms": "prefill ms: median time to the first token.",
        "speed-up": "Speed-up: median of the full model's time over the point's, timed in turn, so that a busy machine "
        "slows both; it is not the ratio of the medians.",
        "FLOPs ratio": "FLOPs ratio: prefill with the vision tower, over the full model.",
    }
    if any(row.metrics.get("selection_counted") is False for row in results):
        notes["FLOPs ratio"] += " >: the method has no flops(), so its choice counts as free."
    return [note for name, note in notes.items() if name not in hidden]


def _about_tokens(hidden: Collection[str]) -> list[str]:
    notes = {
        "left": "left: visual tokens after the last stage; mean and standard deviation where pictures differ in it.",
        "tokens/layer": "tokens/layer: visual tokens, averaged over the decoder's layers.",
    }
    return [note for name, note in notes.items() if name not in hidden]


def print_table(results: Sequence[TableRow], console: Console | None = None) -> None:
    """Prints the table, notes below it (see `caption`), and which lines are best or tie, to standard output."""
    # Where standard output is no terminal, rich would wrap the table at 80 columns.
    console = console or Console(width=None if Console().is_terminal else 200)
    columns = _columns(results)
    empty = [each for each in columns if _is_empty(each)]
    hidden = print_columns([each for each in columns if each not in empty], console)
    hidden += [each.name for each in empty]
    console.print(caption(results, hidden), highlight=False, markup=False)
    told = sentences(results)
    if told:
        count = comparisons_of(results)
        corrected = f"p corrected for {count} comparisons" if count > 1 else "p of one comparison"
        note = f"Best on the same questions; tie: not significantly behind the first ({corrected})"
        console.print(f"{note}:", highlight=False)
    for line in told:
        console.print(f"  {line}", highlight=False, markup=False)


def _columns(results: Sequence[TableRow]) -> list[Column]:
    """The table's columns. The least important go first on a narrow terminal; method, kept and accuracy never do."""
    figures = [row.metrics for row in results]
    fastv = [against_fastv(row, results) for row in results]
    # Where points answered different numbers of questions, n must be seen.
    same_n = len({row.metrics.get("n") for row in results if not row.error}) <= 1
    left = list(map(_left, figures))
    # What remains is what was asked for, of every method that takes a kept.
    told_by_kept = all(_text(row.setting["kept"]) in (_DASH, text) for row, text in zip(results, left, strict=True))
    agreeing = [agreement_with_full(row, results) for row in results]
    like_full = [_number(None if share is None else 100 * share, ".1f") for share in agreeing]
    prefill = [_number((each.get("prefill_ms") or {}).get("p50"), ".1f") for each in figures]
    uncounted = [">" if each.get("selection_counted") is False else "" for each in figures]
    flops = [mark + _number(each.get("flops_ratio"), ".3f") for mark, each in zip(uncounted, figures, strict=True)]
    accuracy = [_accuracy(row, interval=True) for row in results]
    short = Column("accuracy %", "accuracy %", [_accuracy(row, interval=False) for row in results])
    speedup = [
        _number(each.get("speedup"), ".2f") + ("x" if each.get("speedup") is not None else "") for each in figures
    ]
    return [
        Column("method", "method", [row.setting["method"] for row in results]),
        Column("kept", "kept", [_text(row.setting["kept"]) for row in results]),
        *_settings(results),
        Column("left", "left", left, 10 if told_by_kept else 80),
        Column(
            "tokens/layer", "tokens\n/layer", [_number(each.get("tokens_layer_mean"), ".1f") for each in figures], 40
        ),
        Column("n", "n", [_text(each.get("n")) for each in figures], 50 if same_n else 95),
        Column("accuracy % [95%]", "accuracy % [95%]", accuracy, short=short),
        *_own_columns(results),
        Column("vs fastv", "vs\nfastv", list(map(_difference, fastv)), 75),
        Column("p", "p", [_probability(value_of(each, "p_value")) for each in fastv], 70),
        Column("like full %", "like\nfull %", like_full, 45),
        Column("prefill ms", "prefill\nms", prefill, 30),
        Column("speed-up", "speed\n-up", speedup, 60),
        Column("FLOPs ratio", "FLOPs\nratio", flops, 85),
        Column("KV", "KV", [_bytes(each.get("kv_bytes")) for each in figures], 20),
    ]


def _left(metrics: Mapping[str, Any]) -> str:
    """The visual tokens that remain, with their spread over the questions where the picture decides how many."""
    mean, spread = metrics.get("kept_mean"), metrics.get("kept_sd")
    return _text(metrics.get("tokens_left")) if mean is None or spread is None else f"{mean:.1f} \u00b1{spread:.1f}"


def _is_empty(column: Column) -> bool:
    """Whether a column that need not be shown has no value, as that of the times where nothing was timed."""
    return column.importance is not None and set(column.cells) <= {_DASH}


def _settings(results: Sequence[TableRow]) -> list[Column]:
    """A column for each setting in which lines of one method differ. They tell lines apart, so they go last."""
    names = varying_columns(results)
    return [
        Column(
            name.removeprefix("method."),
            name.removeprefix("method."),
            [_text(_short(name, row.setting.get(name))) for row in results],
            TELLS_LINES_APART + len(names) - place,
        )
        for place, name in enumerate(names)
    ]


def _own_columns(results: Sequence[TableRow]) -> list[Column]:
    """The figures that only some data sets have; of a benchmark's own, the first ones."""
    own = {name: [_own_figure(row, name) for row in results] for name in ("score", "F1")}
    found = [
        Column(name, name, [_number(value, ".1f") for value in values], 90)
        for name, values in own.items()
        if any(value is not None for value in values)
    ]
    given = [row.metrics.get("benchmark") or {} for row in results]
    names = dict.fromkeys(name for each in given for name, value in each.items() if type(value) in (int, float))
    return found + [
        Column(name, name.replace("_", "_\n", 1), [_number(each.get(name), ".4g") for each in given], 45)
        for name in list(names)[:_MOST_FIGURES]
    ]


def _own_figure(result: TableRow, name: str) -> float | None:
    """score: MME's, out of 2800. F1: POPE's, in percent. None for other data sets."""
    figures = result.metrics.get("yes_no", {})
    if name == "score":
        parts = [figures.get("perception"), figures.get("cognition")]
        return None if None in parts else sum(parts)
    return None if figures.get("f1") is None else 100 * figures["f1"]


def _accuracy(result: TableRow, interval: bool) -> str:
    figures = result.metrics
    if result.error:
        return "failed"
    if figures.get("accuracy") is None:
        return _DASH
    spread = figures.get("accuracy_sd")
    text = f"{100 * figures['accuracy']:.1f}" + ("" if spread is None else f" ±{100 * spread:.1f}")
    return f"{text} [{100 * figures['ci_low']:.1f}, {100 * figures['ci_high']:.1f}]" if interval else text


def _difference(fastv: dict[str, float] | None) -> str:
    return _number(value_of(fastv, "difference"), "+.1f") + ("*" if _costs_differ(fastv) else "")


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
