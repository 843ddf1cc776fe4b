"""The first screen of a report: the result in one sentence, the chart of accuracy over cost, and its best points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.charts import pareto_front
from analysis.columns import AT_EVERY_KEPT
from analysis.report.evaluation import Evaluation, TableRow
from analysis.report.findings import NAMES, SIGNIFICANT, probability
from analysis.report.page import Html, join, tag

# FLOPs of two points that differ by less than this share count as equal: methods differ a little in their own cost.
SAME_COST = 0.03
MAX_BEST = 9
_BEST_NOTE = (
    "The best accuracy at each cost: no other point is both cheaper and more accurate. FLOPs of the prompt are a share "
    "of the full model's. p is corrected for all comparisons with FastV at the same kept (Holm)."
)


@dataclass(frozen=True)
class Best:
    """A point than which no other is both cheaper and more accurate. tied: others of equal cost and accuracy."""

    row: TableRow
    tied: list[TableRow]


def best_points(rows: Sequence[TableRow]) -> list[Best]:
    """Returns the best of the complete rows at each cost, by rising FLOPs; without any FLOPs, at each kept.

    Only rows that were asked most questions compete: others may have had easier ones.
    """
    reduced = _reduced(rows)
    reduced = [row for row in reduced if _asked(row) == max(map(_asked, reduced))]
    priced = [row for row in reduced if row.point.get("flops_ratio") is not None]
    cost = {id(row): float(row.point["flops_ratio"] if priced else row.at[1]) for row in priced or reduced}
    corners = pareto_front([(cost[id(row)], row.point["accuracy"]) for row in priced or reduced])
    best: list[Best] = []
    for place, accuracy in corners:
        equal = [
            row
            for row in priced or reduced
            if row.point["accuracy"] == accuracy and abs(cost[id(row)] - place) <= SAME_COST * place
        ]
        equal.sort(key=lambda row: (cost[id(row)], row.method in AT_EVERY_KEPT, row.label))
        best.append(Best(equal[0], equal[1:]))
    return best


def _reduced(rows: Sequence[TableRow]) -> list[TableRow]:
    reduced = [row for row in rows if row.is_complete and not row.is_control and row.kept is not None]
    return [row for row in reduced if row.method != "downsample"]


def _asked(row: TableRow) -> int:
    return row.point["n"] + row.point.get("skipped", 0)


def headline(evaluation: Evaluation) -> str:
    """Writes the result in one sentence: what the best point keeps of the accuracy, at what cost, against FastV."""
    rows = evaluation.complete
    if not rows:
        return "No point of this evaluation is complete yet, so there is no result."
    full = next((row for row in rows if row.method == "full"), None)
    own = [each for each in best_points(rows) if each.row.method not in AT_EVERY_KEPT]
    chosen = (own or best_points(rows))[-1:]
    first = chosen[0].row if chosen else rows[0]
    questions = f"{first.point['n']} questions of {first.point.get('data', 'the data set')}"
    if not chosen:
        known = f"The full model answers {_percent(full)} of {questions} correctly. " if full else ""
        return f"{known}No point with reduced visual tokens is complete yet."
    best = chosen[0].row
    of = f" of {evaluation.visual_tokens}" if evaluation.visual_tokens else ""
    against = ""
    if full:
        against = f", the full model {_percent(full)}"
        against += "" if _asked(full) == _asked(best) else f" of {full.point['n']}"
    cost = best.point.get("flops_ratio")
    price = "" if cost is None else f" and {100 * cost:.0f}% of the FLOPs"
    tied = f" (as does {_names(chosen[0].tied, 1)})" if chosen[0].tied else ""
    return (
        f"With {best.kept}{of} visual tokens{price}, {best.series} answers {_percent(best)} of {questions} correctly"
        f"{tied}{against}; {_verdict(rows)}."
    )


def _verdict(rows: Sequence[TableRow]) -> str:
    """Says in a few words which methods differ from FastV and from random choice."""
    own = [row for row in rows if not row.is_control and row.method not in AT_EVERY_KEPT]
    compared = {reference: [row for row in own if reference in row.versus] for reference in ("fastv", "random")}
    if not any(compared.values()):
        return "nothing was compared with FastV or random choice"
    alike, parts = [], []
    for reference, same in compared.items():
        found = [row for row in same if row.versus[reference]["p_holm"] < SIGNIFICANT]
        if same and not found:
            alike.append(NAMES[reference])
        for word, sign in (("ahead of", 1), ("behind", -1)):
            side = [row for row in found if sign * row.versus[reference]["difference"] > 0]
            if side:
                verb = "is" if len(side) == 1 else "are"
                parts.append(f"{_names(side, 2)} {verb} significantly {word} {NAMES[reference]}")
    if alike:
        parts.insert(0, f"no method differs significantly from {' or '.join(alike)}")
    return "; ".join(parts)


def best_table(evaluation: Evaluation, colors: Mapping[str, str]) -> Html:
    """Makes the table of best points, the full model first and no image last. colors: CSS class of each method."""
    best = best_points(evaluation.complete)
    shown = best if len(best) <= MAX_BEST else [*best[: MAX_BEST - 1], best[-1]]
    full, none = (
        [Best(row, []) for row in evaluation.complete if row.method == method] for method in ("full", "no_image")
    )
    lines = [*full, *shown, *none]
    cells: dict[str, Callable[[TableRow], object]] = {"FLOPs": _flops, "accuracy": _accuracy}
    cells |= {"vs FastV": _against, "first token": _first_token}
    known = {title: cell for title, cell in cells.items() if any(cell(each.row) is not None for each in lines)}
    head = tag("tr", *(tag("th", title, scope="col", class_="plain") for title in ("point", *known)))
    body = [_line(each, colors, [cell(each.row) for cell in known.values()]) for each in lines]
    note = _BEST_NOTE
    if any("accuracy_sd" in each.row.point for each in lines):
        note += " \u00b1 is the standard deviation over seeds."
    most = max((_asked(each.row) for each in best), default=0)
    if fewer := sum(_asked(row) < most for row in _reduced(evaluation.complete)):
        note += f" Left out: {fewer} with fewer questions."
    if left_out := len(best) - len(shown):
        note += f" {left_out} more are in the chart and in the table of all points."
    return join(
        tag("table", tag("thead", head), tag("tbody", *body), class_="best"),
        tag("p", note, class_="note"),
    )


def _line(best: Best, colors: Mapping[str, str], cells: Sequence[object]) -> Html:
    name = join(
        tag("span", class_=f"swatch {colors[best.row.method]}", aria_hidden="true"),
        best.row.label,
        tag("small", f"tied with {_names(best.tied, 1)}") if best.tied else None,
    )
    kind = "control" if best.row.is_control else None
    return tag("tr", tag("th", name, scope="row", dir="auto"), *(tag("td", cell) for cell in cells), class_=kind)


def _flops(row: TableRow) -> str | None:
    ratio = row.point.get("flops_ratio")
    return None if ratio is None else f"{100 * ratio:.1f}%"


def _first_token(row: TableRow) -> str | None:
    time = row.point.get("prefill_ms_p50")
    return None if time is None else f"{time:.1f} ms"


def _accuracy(row: TableRow) -> Html:
    spread = row.point.get("accuracy_sd")
    return join(
        _percent(row),
        None if spread is None else f" \u00b1 {100 * spread:.1f}",
        tag("small", f"[{100 * row.point['ci_low']:.1f}, {100 * row.point['ci_high']:.1f}]"),
    )


def _against(row: TableRow) -> Html | None:
    found = row.versus.get("fastv")
    if found is None or row.is_control:
        return None
    return join(f"{found['difference']:+.1f}".replace("-", "\u2212"), tag("small", probability(found["p_holm"])))


def _names(rows: Sequence[TableRow], most: int) -> str:
    names = [row.label for row in rows[:most]]
    if len(rows) > most:
        names.append(f"{len(rows) - most} more")
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _percent(row: TableRow) -> str:
    return f"{100 * row.point['accuracy']:.1f}%"
