"""The table of all points, with every figure in full beside its rounded text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report.evaluation import Evaluation, Row
from analysis.report.findings import probability
from analysis.report.page import Html, join, tag


@dataclass(frozen=True)
class Column:
    """One column. value: what is sorted by, None where a row has none; text: how it is shown, given value and row."""

    name: str
    title: str
    value: Callable[[Row], Any]
    text: Callable[[Any, Row], object]
    kind: str = "number"
    spoken: str | None = None  # where the title alone does not say what it is of


def points_table(evaluation: Evaluation, colors: Mapping[str, str]) -> Html:
    """The evaluation's rows as a sortable table. colors: each method's class."""
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
            )
            for column in columns
        ),
    )
    rows = [_row(row, columns, colors) for row in evaluation.rows]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="points")
    return tag(
        "div", table, class_="frame", tabindex="0", role="region", aria_label=f"Every point of {evaluation.title}"
    )


def _row(row: Row, columns: Sequence[Column], colors: Mapping[str, str]) -> Html:
    cells = []
    for place, column in enumerate(columns):
        value = column.value(row)
        shown: Any = "" if value is None else column.text(value, row)
        if place == 0:
            shown = join(tag("span", class_=f"swatch {colors[row.method]}", aria_hidden="true"), shown)
        cells.append(
            tag(
                "td" if place else "th",
                shown,
                data_value="" if value is None else str(value),
                class_=None if column.kind == "number" else "text",
                scope=None if place else "row",
                dir=None if column.kind == "number" else "auto",
            )
        )
    kind = "control" if row.is_control else None
    return tag("tr", *cells, class_=kind, data_key=row.point["key"], data_status=row.status)


def _columns(evaluation: Evaluation) -> list[Column]:
    rows = evaluation.rows
    columns = [Column("method", "method", lambda row: row.method, _as_it_is, "text")]
    columns.append(Column("kept", "kept", _figure("kept"), _as_it_is))
    columns += [_setting(name, rows) for name in evaluation.varying]
    if any(row.status != "complete" for row in rows):
        columns.append(Column("status", "status", lambda row: row.status, _status, "text"))
    if len({row.point.get("sweep") for row in rows}) > 1:
        columns.append(Column("sweep", "sweep", _figure("sweep"), _as_it_is, "text"))
    columns.append(Column("n", "n", _figure("n"), _as_it_is))
    columns.append(Column("accuracy", "accuracy [95%]", _figure("accuracy"), _accuracy))
    for reference, title in (("full", "vs full"), ("fastv", "vs FastV"), ("random", "vs random")):
        if any(reference in row.versus for row in rows):
            columns.append(Column(f"vs_{reference}", title, _versus(reference, "difference"), _difference(reference)))
            p_value = _versus(reference, "p_value")
            columns.append(Column(f"vs_{reference}_p", "p", p_value, _probability, spoken=f"p {title}"))
    columns += [
        Column("prefill_ms_p50", "first token, ms", _figure("prefill_ms_p50"), _decimals(".1f")),
        Column("speedup", "speed-up", _figure("speedup"), _decimals(".2f", "\u00d7")),
        Column("flops_ratio", "FLOPs", _figure("flops_ratio"), lambda value, row: f"{100 * value:.1f}%"),
        Column("kv_bytes", "KV cache", _figure("kv_bytes"), lambda value, row: f"{value / 2**20:.2f} MiB"),
        Column("tokens_layer_mean", "tokens per layer", _figure("tokens_layer_mean"), _decimals(".1f")),
        Column("skipped", "skipped", _figure("skipped"), _as_it_is),
        Column("near_ties", "near ties", _figure("near_ties"), _as_it_is),
    ]
    always = {"method", "kept", "n", "accuracy", *evaluation.varying}
    rarely = {"skipped", "near_ties"}  # nothing to tell where they are 0 everywhere
    return [
        column
        for column in columns
        if column.name in always
        or any(value is not None and (value or column.name not in rarely) for value in map(column.value, rows))
    ]


def _figure(name: str) -> Callable[[Row], Any]:
    return lambda row: row.point.get(name)


def _versus(reference: str, name: str) -> Callable[[Row], Any]:
    return lambda row: row.versus.get(reference, {}).get(name)


def _setting(name: str, rows: Sequence[Row]) -> Column:
    numeric = all(isinstance(row.point.get(name), int | float) for row in rows if name in row.point)
    text = _short if name == "code" else _as_it_is
    return Column(name, name.removeprefix("method."), _figure(name), text, "number" if numeric else "text")


def _as_it_is(value: Any, row: Row) -> str:
    return str(value)


def _short(value: str, row: Row) -> str:
    return value[:6]


def _decimals(form: str, unit: str = "") -> Callable[[Any, Row], str]:
    return lambda value, row: format(value, form) + unit


def _accuracy(value: float, row: Row) -> Html:
    low, high = 100 * row.point["ci_low"], 100 * row.point["ci_high"]
    return join(f"{100 * value:.1f}%", tag("small", f"[{low:.1f}, {high:.1f}]"))


def _difference(reference: str) -> Callable[[Any, Row], Html]:
    def text(value: float, row: Row) -> Html:
        found = row.versus[reference]
        limits = f"[{found['diff_low']:+.1f}, {found['diff_high']:+.1f}]"
        # Room for one interval only: the others are in the charts' tips and the findings.
        return join(_signed(f"{value:+.1f}"), tag("small", _signed(limits)) if reference == "fastv" else None)

    return text


def _signed(text: str) -> str:
    return text.replace("-", "\u2212")


def _probability(value: float, row: Row) -> str:
    return probability(value).removeprefix("p = ").removeprefix("p ")


def _status(value: str, row: Row) -> Html:
    said = value
    if value == "unfinished":
        said += f", {len(row.answers)} answers so far"
    return join(tag("span", said, class_=f"status {value}"))
