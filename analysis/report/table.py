"""The table of all points. Each cell shows a rounded figure and stores the exact one as data-value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report.evaluation import Evaluation, TableRow
from analysis.report.findings import probability
from analysis.report.page import Html, join, tag
from analysis.report.payload import row_id


@dataclass(frozen=True)
class Column:
    """One column.

    name    identifies the column; title: its heading
    value   the value of a row, by which the table is sorted; None if the row has none
    text    the text of a cell, from value and row
    kind    "number" or "text"
    spoken  for screen readers, where the title alone is ambiguous
    rank    which columns are left out first where all are too wide: those with the highest. 0: never
    setting whether it tells lines of one method apart; if one of these is left out, all are named below the method
    """

    name: str
    title: str
    value: Callable[[TableRow], Any]
    text: Callable[[Any, TableRow], object]
    kind: str = "number"
    spoken: str | None = None
    rank: int = 1
    setting: bool = False


def points_table(evaluation: Evaluation, colors: Mapping[str, str]) -> Html:
    """Makes a sortable table of the evaluation's rows. colors: CSS class of each method."""
    columns = _columns(evaluation)
    head = tag(
        "tr",
        *(
            tag(
                "th",
                tag("button", column.title, type="button", aria_label=column.spoken),
                scope="col",
                class_=None if column.kind == "number" else "text",
                aria_sort="none",
                data_type=column.kind,
                data_name=column.name,
                data_rank=column.rank,
                data_setting="" if column.setting else None,
            )
            for column in columns
        ),
    )
    rows = [_row(row, columns, colors) for row in evaluation.rows]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="points")
    name = f"All points of {evaluation.title}"
    frame = tag("div", table, class_="frame", tabindex="0", role="region", aria_label=name)
    return join(tag("div", class_="controls"), frame)


def _row(row: TableRow, columns: Sequence[Column], colors: Mapping[str, str]) -> Html:
    cells = []
    for index, column in enumerate(columns):
        value = column.value(row)
        shown: Any = "" if value is None else column.text(value, row)
        if index == 0:
            shown = join(tag("span", class_=f"swatch {colors[row.method]}", aria_hidden="true"), shown)
        cells.append(
            tag(
                "td" if index else "th",
                shown,
                data_value="" if value is None else str(value),
                class_=None if column.kind == "number" else "text",
                scope=None if index else "row",
                dir=None if column.kind == "number" else "auto",
            )
        )
    kind = "control" if row.is_control else None
    return tag(
        "tr",
        *cells,
        class_=kind,
        data_key=row.point["key"],
        data_status=row.status,
        data_id=row_id(row),
        data_label=row.label,
    )


def _columns(evaluation: Evaluation) -> list[Column]:
    rows = evaluation.rows
    columns = [Column("method", "method", lambda row: row.method, _method, "text", rank=0)]
    columns.append(Column("kept", "kept", _figure("kept"), _kept, rank=0))
    columns.append(Column("budget", "budget", _figure("budget"), _plain, "text", rank=3))
    columns += [_setting(name, rows) for name in evaluation.varying]
    columns.append(Column("seeds", "seeds", _figure("seeds"), _plain, "text", rank=4))
    if any(row.status != "complete" for row in rows):
        columns.append(Column("status", "status", lambda row: row.status, _status, "text", rank=2))
    if len({row.point.get("sweep") for row in rows}) > 1:
        columns.append(Column("sweep", "sweep", _figure("sweep"), _plain, "text", rank=10))
    columns.append(Column("n", "n", _figure("n"), _plain, rank=6))
    columns.append(Column("accuracy", "accuracy [95%]", _figure("accuracy"), _accuracy, rank=0))
    for rank, (reference, title) in enumerate((("fastv", "vs FastV"), ("random", "vs random"), ("full", "vs full"))):
        if any(reference in row.versus for row in rows):
            difference = _versus(reference, "difference")
            columns.append(Column(f"vs_{reference}", title, difference, _difference(reference), rank=5 + 2 * rank))
            p_value = _versus(reference, "p_value")
            name = f"vs_{reference}_p"
            columns.append(Column(name, "p", p_value, _probability, spoken=f"p {title}", rank=6 + 2 * rank))
    if any("agreement" in row.versus.get("full", {}) for row in rows):
        agreement = _versus("full", "agreement")
        text: Callable[[Any, TableRow], str] = lambda value, row: f"{100 * value:.1f}%"  # noqa: E731
        columns.append(Column("agreement", "like full", agreement, text, spoken="answers like the full model", rank=8))
    columns += [
        Column("prefill_ms_p50", "first token, ms", _figure("prefill_ms_p50"), _decimals(".1f"), rank=9),
        Column("speedup", "speed-up", _figure("speedup"), _decimals(".2f", "\u00d7"), rank=5),
        Column("flops_ratio", "FLOPs", _figure("flops_ratio"), flops_text, rank=2),
        Column("kv_bytes", "KV cache", _figure("kv_bytes"), lambda value, row: f"{value / 2**20:.2f} MiB", rank=11),
        Column("tokens_left", "tokens left", _figure("tokens_left"), _plain, rank=13),
        Column("tokens_layer_mean", "tokens per layer", _figure("tokens_layer_mean"), _decimals(".1f"), rank=12),
        Column("skipped", "skipped", _figure("skipped"), _plain, rank=9),
        Column("n_ties", "hang on a tie", _figure("n_ties"), _plain, rank=13),
    ]
    always = {"method", "kept", "n", "accuracy", *evaluation.varying}
    unless_zero = {"skipped", "n_ties"}  # columns that are left out if they are 0 everywhere
    return [
        column
        for column in columns
        if column.name in always
        or any(value is not None and (value or column.name not in unless_zero) for value in map(column.value, rows))
    ]


def _figure(name: str) -> Callable[[TableRow], Any]:
    return lambda row: row.point.get(name)


def _versus(reference: str, name: str) -> Callable[[TableRow], Any]:
    return lambda row: row.versus.get(reference, {}).get(name)


def _setting(name: str, rows: Sequence[TableRow]) -> Column:
    numeric = all(isinstance(row.point.get(name), int | float) for row in rows if name in row.point)
    text = _short if name == "code" else _plain
    kind, own = ("number" if numeric else "text"), name != "code"
    return Column(name, name.removeprefix("method."), _figure(name), text, kind, rank=1 if own else 14, setting=own)


def flops_text(value: float, row: TableRow) -> str:
    """A share of the full model's FLOPs; ">" where the method's choice is not counted, as it has no flops()."""
    return f"{'>' if row.point.get('selection_counted') is False else ''}{100 * value:.1f}%"


def _plain(value: Any, row: TableRow) -> str:
    return str(value)


def _method(value: Any, row: TableRow) -> object:
    settings = row.series.removeprefix(row.method).strip(" ()")
    return join(value, tag("small", settings, class_="settings")) if settings else value


def _kept(value: Any, row: TableRow) -> str:
    share, mean = row.point.get("kept_share"), row.point.get("kept_mean")
    if share is not None and share.startswith("auto") and mean is not None:
        return f"{share} ({mean:.1f} \u00b1 {row.point.get('kept_sd') or 0:.1f})"
    return str(value) if share is None else f"{value} ({share})"


def _short(value: str, row: TableRow) -> str:
    return value[:6]


def _decimals(form: str, unit: str = "") -> Callable[[Any, TableRow], str]:
    return lambda value, row: format(value, form) + unit


def _accuracy(value: float, row: TableRow) -> Html:
    low, high = 100 * row.point["ci_low"], 100 * row.point["ci_high"]
    spread = row.point.get("accuracy_sd")
    text = f"{100 * value:.1f}%" if spread is None else f"{100 * value:.1f}% \u00b1 {100 * spread:.1f}"
    return join(text, tag("small", f"[{low:.1f}, {high:.1f}]"))


def _difference(reference: str) -> Callable[[Any, TableRow], Html]:
    def text(value: float, row: TableRow) -> Html:
        found = row.versus[reference]
        limits = f"[{found['diff_low']:+.1f}, {found['diff_high']:+.1f}]"
        # There is room for one interval only. Charts and findings show the others.
        return join(_signed(f"{value:+.1f}"), tag("small", _signed(limits)) if reference == "fastv" else None)

    return text


def _signed(text: str) -> str:
    return text.replace("-", "\u2212")


def _probability(value: float, row: TableRow) -> str:
    return probability(value).removeprefix("p = ").removeprefix("p ")


def _status(value: str, row: TableRow) -> Html:
    text = value
    if value == "unfinished":
        text += f", {len(row.answers)} answers so far"
    return join(tag("span", text, class_=f"status {value.replace(' ', '-')}"))
