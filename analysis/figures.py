"""Draws figures with matplotlib, for PDF and PNG. `analysis.interactive` draws the same figures for web pages."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import charts
from analysis.panels import Bars, Chart, Grid, Panel, Series
from analysis.style import BLACK, BLUE, GREY, RC, VERMILLION, method_style

_COLUMNS = 3


@matplotlib.rc_context(RC)
def accuracy_over_kept(results: pd.DataFrame) -> Figure:
    """Draws accuracy in percent over kept visual tokens, with Wilson's 95% intervals.

    results: from `load_results`, or a frame read from a sweep's results.parquet. Each pool has its own
    panel, and each method and setting its own line. full, no_image and chance are horizontal lines. Failed and
    unfinished points are named below the figure.
    """
    return _figure(charts.accuracy_over_kept(results))


@matplotlib.rc_context(RC)
def accuracy_over_cost(results: pd.DataFrame, cost: str = "prefill_ms") -> Figure:
    """Draws accuracy in percent over a cost. Each point is labelled with its kept; the Pareto front is grey.

    cost    prefill_ms, total_ms, select_ms, peak_memory_bytes      measured
            prefill_ratio                       prefill time over the full model's. The two are timed in turn, so the
                                                ratio is reliable on a busy machine too
            flops_ratio, flops, kv_bytes        computed, so equal on all devices; every other cost has one panel
                                                per device

    Raises TokenselError for any other cost, and if no complete point has this cost.
    """
    return _figure(charts.accuracy_over_cost(results, cost))


@matplotlib.rc_context(RC)
def accuracy_by_group(groups: pd.DataFrame) -> Figure:
    """Draws accuracy in percent by group of questions, with intervals. Each kept has its own panel.

    groups: from `by_group`.

    Raises TokenselError for an empty frame.
    """
    return _figure(charts.accuracy_by_group(groups))


@matplotlib.rc_context(RC)
def difference_to_reference(comparison: pd.DataFrame) -> Figure:
    """Draws each point's accuracy minus the reference's, in percentage points with intervals.

    comparison: from `compare`. Filled markers are significant after Holm's correction, hollow ones are not.

    Raises TokenselError if no point has a reference.
    """
    return _figure(charts.difference_to_reference(comparison))


@matplotlib.rc_context(RC)
def layer_temperature(results: pd.DataFrame, method: str | None = None, kept: int | None = None) -> Figure:
    """Draws heat maps of accuracy over agg_layer and temperature, one for each pool, method, kept and other setting.

    method, kept: draw only these.

    Raises TokenselError if no method was run at several layers or temperatures.
    """
    chart = charts.layer_temperature(results, method, kept)
    widest = max(len(grid.temperatures) for grid in chart.panels)
    figure, axes = _sheet(chart, 1.6 + 0.95 * widest, 1.2 + 0.55 * max(len(grid.layers) for grid in chart.panels))
    known = [value for grid in chart.panels for line in grid.values for value in line if value is not None]
    for each, grid in zip(axes, chart.panels, strict=True):
        _draw_grid(each, grid, min(known), max(known))
    return figure


@matplotlib.rc_context(RC)
def answer_flips(counts: pd.DataFrame) -> Figure:
    """Draws the shares of answers that changed from right to wrong and from wrong to right.

    counts: from `flip_counts`.

    Raises TokenselError for an empty frame.
    """
    chart = charts.answer_flips(counts)
    figure, axes = _sheet(chart, 6.4, 1.1 + 0.24 * max(len(bars.labels) for bars in chart.panels))
    for each, bars in zip(axes, chart.panels, strict=True):
        _draw_bars(each, bars)
    _legend(figure, axes)
    return figure


@matplotlib.rc_context(RC)
def save(figure: Figure, path: str | Path) -> None:
    """Writes the figure in the format of the path's suffix, such as .pdf (with searchable text), .png or .svg."""
    figure.savefig(path)


def _figure(chart: Chart[Panel]) -> Figure:
    figure, axes = _sheet(chart, 5.2, 3.6)
    for each, panel in zip(axes, chart.panels, strict=True):
        _draw(each, panel)
    _legend(figure, axes)
    return figure


def _sheet(chart: Chart[Any], width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Makes a figure with axes of width x height inches for each panel, and the chart's note below them."""
    count = len(chart.panels)
    columns = 2 if count == 4 else min(max(count, 1), _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width + 1.4, max(rows, 1) * height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    if chart.note:
        line_length = int(17 * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(chart.note, line_length), x=0.01, ha="left", fontsize=8, parse_math=False)
    return figure, axes


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(textwrap.fill(panel.title, 70), parse_math=False)
    for series in panel.series:
        _draw_series(axes, series)
    for name, value, line in panel.levels:
        axes.axhline(value, color=BLACK, linewidth=1, linestyle=line, label=name, zorder=1)
    if len(panel.front) > 1:
        costs, values = zip(*panel.front, strict=True)
        axes.step(costs, values, where="post", color=GREY, linewidth=4, alpha=0.35, label="Pareto front", zorder=1)
    if panel.log:
        axes.set_xscale("log", base=2)
    if panel.ticks:
        positions, texts = zip(*panel.ticks, strict=True)
        long = len("".join(texts)) > 45
        axes.set_xticks(
            positions, texts, rotation=40 if long else 0, ha="right" if long else "center", parse_math=False
        )
        axes.minorticks_off()
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(textwrap.fill(panel.y_label, 46))


def _draw_series(axes: Axes, series: Series) -> None:
    style = method_style(series.method)
    axes.errorbar(
        series.x,
        series.y,
        xerr=_lengths(series.x, series.x_limits),
        yerr=_lengths(series.y, series.y_limits),
        label=series.name,
        color=style.color,
        linestyle=style.line if series.joined else "none",
        elinewidth=0.9,
        alpha=series.strength,
    )
    hollow = series.hollow or [False] * len(series.x)
    for empty in sorted(set(hollow)):
        points = [(x, y) for x, y, each in zip(series.x, series.y, hollow, strict=True) if each == empty]
        face = "white" if empty else style.color
        axes.plot(
            *zip(*points, strict=True), style.marker, color=style.color, markerfacecolor=face, alpha=series.strength
        )
    for x, y, text in zip(series.x, series.y, series.marks, strict=False):
        axes.annotate(text, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=style.color)


def _lengths(values: Sequence[float], limits: Sequence[tuple[float, float]]) -> list[list[float]] | None:
    """Returns the lengths of the error bars, [below, above] the points; None without limits."""
    if not limits:
        return None
    below = [max(value - low, 0) for value, (low, _) in zip(values, limits, strict=True)]
    return [below, [max(high - value, 0) for value, (_, high) in zip(values, limits, strict=True)]]


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Adds one legend for all panels, with each name once."""
    handles: dict[str, Any] = {}
    for each in axes:
        for handle, name in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    shown = [_legend_handle(name, handle) for name, handle in handles.items()]
    if shown:
        figure.legend(handles=shown, loc="outside right upper")


def _legend_handle(name: str, handle: Any) -> Any:
    """Makes the legend's handle for a name. matplotlib's own handle of error bars lacks the marker."""
    if not hasattr(handle, "has_yerr"):
        return handle
    method = name.split(",")[0]
    style, drawn = method_style(method), handle[0]
    return Line2D(
        [],
        [],
        color=style.color,
        marker=style.marker,
        linestyle=drawn.get_linestyle(),
        label=name,
        alpha=drawn.get_alpha(),
    )


def _draw_grid(axes: Axes, grid: Grid, low: float, high: float) -> None:
    values = [[math.nan if value is None else value for value in line] for line in grid.values]
    axes.imshow(values, cmap="cividis", vmin=low - 1, vmax=high + 1, aspect="auto")
    for row, line in enumerate(grid.texts):
        for column, text in enumerate(line):
            dark = values[row][column] < (low + high) / 2
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(grid.temperatures)), [f"{value:g}" for value in grid.temperatures])
    axes.set_yticks(range(len(grid.layers)), [str(layer) for layer in grid.layers])
    axes.set_xlabel("temperature of the cross-attention")
    axes.set_ylabel("agg_layer (0-based)")
    axes.set_title(textwrap.fill(grid.title, 44), parse_math=False)
    axes.grid(visible=False)


def _draw_bars(axes: Axes, bars: Bars) -> None:
    positions = range(len(bars.labels))
    for shares, sign, color, label in (
        (bars.lost, -1, VERMILLION, "right to wrong"),
        (bars.won, 1, BLUE, "wrong to right"),
    ):
        values = [share for share, _, _ in shares]
        errors = _lengths(values, [(low, high) for _, low, high in shares]) or []
        sides = errors if sign > 0 else errors[::-1]
        axes.barh(
            positions,
            [sign * value for value in values],
            xerr=sides,
            color=color,
            label=label,
            error_kw={"elinewidth": 0.8},
        )
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(positions, bars.labels, parse_math=False)
    axes.set_ylim(len(bars.labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.set_xlabel(f"changed answers, % of all (n = {bars.n}, 95% intervals)")
    axes.set_title(textwrap.fill(bars.title, 70), parse_math=False)
