"""Draws the figures of `analysis.figures` for web pages, with plotly. Pointing at a mark shows its setting.

    figure = accuracy_over_kept(load_results("outputs/sweep"))
    figure.to_html(include_plotlyjs=True, full_html=False)    # needs no network

plotly interprets some HTML in its texts, so names from results and questions are escaped.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import charts
from analysis.panels import Bars, Chart, Grid, Panel, Series
from analysis.style import BLACK, BLUE, GREY, VERMILLION, method_style

_COLUMNS = 2
_LINES = {"-": "solid", "--": "dash", ":": "dot"}


def accuracy_over_kept(results: pd.DataFrame) -> go.Figure:
    """See `analysis.figures.accuracy_over_kept`."""
    return _figure(charts.accuracy_over_kept(results))


def accuracy_over_cost(results: pd.DataFrame, cost: str = "prefill_ms") -> go.Figure:
    """See `analysis.figures.accuracy_over_cost`."""
    return _figure(charts.accuracy_over_cost(results, cost))


def accuracy_by_group(groups: pd.DataFrame) -> go.Figure:
    """See `analysis.figures.accuracy_by_group`."""
    return _figure(charts.accuracy_by_group(groups))


def difference_to_reference(comparison: pd.DataFrame) -> go.Figure:
    """See `analysis.figures.difference_to_reference`."""
    return _figure(charts.difference_to_reference(comparison))


def layer_temperature(results: pd.DataFrame, method: str | None = None, kept: int | None = None) -> go.Figure:
    """See `analysis.figures.layer_temperature`."""
    chart = charts.layer_temperature(results, method, kept)
    figure, cells = _sheet(chart, 70 + 60 * max(len(grid.layers) for grid in chart.panels))
    known = [value for grid in chart.panels for line in grid.values for value in line if value is not None]
    for cell, grid in zip(cells, chart.panels, strict=True):
        _add_grid(figure, cell, grid, min(known), max(known))
    return figure


def answer_flips(counts: pd.DataFrame) -> go.Figure:
    """See `analysis.figures.answer_flips`."""
    chart = charts.answer_flips(counts)
    figure, cells = _sheet(chart, 60 + 22 * max(len(bars.labels) for bars in chart.panels))
    for cell, bars in zip(cells, chart.panels, strict=True):
        _add_bars(figure, cell, bars)
    return figure.update_layout(barmode="overlay")


def _figure(chart: Chart[Panel]) -> go.Figure:
    figure, cells = _sheet(chart, 340)
    shown: set[str] = set()
    for cell, panel in zip(cells, chart.panels, strict=True):
        _add_panel(figure, cell, panel, shown)
    return figure


def _sheet(chart: Chart[Any], height: int) -> tuple[go.Figure, list[dict[str, int]]]:
    """Makes a figure with one subplot per panel, each `height` pixels high, and the note below them.

    Returns the figure, and the {"row", "col"} of each subplot.
    """
    count = len(chart.panels)
    columns = min(max(count, 1), _COLUMNS)
    rows = max(math.ceil(count / columns), 1)
    titles = [escape(panel.title) for panel in chart.panels]
    total_height = height * rows + 150
    gap = {"vertical_spacing": min(110 / total_height, 0.9 / (rows - 1)) if rows > 1 else 0, "horizontal_spacing": 0.16}
    figure = make_subplots(rows, columns, subplot_titles=titles, **gap)
    figure.update_annotations(font_size=12)
    figure.update_layout(template="plotly_white", height=total_height, margin={"t": 50, "b": 90, "l": 70, "r": 20})
    if chart.note:
        below = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "yshift": -62, "xanchor": "left", "yanchor": "top"}
        figure.add_annotation(text=escape(chart.note), showarrow=False, align="left", font_size=11, **below)
    return figure, [{"row": index // columns + 1, "col": index % columns + 1} for index in range(count)]


def _add_panel(figure: go.Figure, cell: dict[str, int], panel: Panel, shown: set[str]) -> None:
    """Adds a panel. shown: names that are already in the legend."""
    if len(panel.front) > 1:
        xs, ys = zip(*panel.front, strict=True)
        line = {"color": GREY, "width": 5, "shape": "hv"}
        front = go.Scatter(x=xs, y=ys, mode="lines", line=line, opacity=0.35, hoverinfo="skip")
        _add_named(figure, cell, front, "Pareto front", shown)
    for series in panel.series:
        _add_named(figure, cell, _trace(series), series.name, shown)
    ends = _ends(panel)
    for name, value, dash in panel.levels:
        line = {"color": BLACK, "width": 1, "dash": _LINES[dash]}
        level = go.Scatter(
            x=ends, y=[value, value], mode="lines", line=line, hovertemplate=f"{escape(name)}: %{{y:.1f}}"
        )
        _add_named(figure, cell, level, name, shown)
    axis: dict[str, Any] = {"title_text": panel.x_label, "type": "log" if panel.log else "linear"}
    if panel.ticks:
        axis |= {"tickvals": [x for x, _ in panel.ticks], "ticktext": [escape(text) for _, text in panel.ticks]}
    figure.update_xaxes(**axis, **cell)
    figure.update_yaxes(title_text=escape(panel.y_label), **cell)


def _add_named(figure: go.Figure, cell: dict[str, int], trace: go.Scatter, name: str, shown: set[str]) -> None:
    trace.update(name=escape(name), legendgroup=name, showlegend=name not in shown)
    shown.add(name)
    figure.add_trace(trace, **cell)


def _trace(series: Series) -> go.Scatter:
    style = method_style(series.method)
    hollow = series.hollow or [False] * len(series.x)
    return go.Scatter(
        x=series.x,
        y=series.y,
        error_x=_error(series.x, series.x_limits),
        error_y=_error(series.y, series.y_limits),
        mode=("lines+" if series.joined else "") + "markers" + ("+text" if series.marks else ""),
        text=series.marks or None,
        textposition="top right",
        textfont={"size": 9, "color": style.color},
        marker={
            "symbol": [style.symbol + ("-open" if empty else "") for empty in hollow],
            "color": style.color,
            "size": 8,
        },
        line={"color": style.color, "dash": style.dash, "width": 1.6},
        opacity=series.strength,
        customdata=[escape(text) for text in series.hover],
        hovertemplate="%{y:.1f}<br>%{customdata}<extra></extra>",
    )


def _error(values: Sequence[float], limits: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    if not limits:
        return None
    above = [max(high - value, 0) for value, (_, high) in zip(values, limits, strict=True)]
    below = [max(value - low, 0) for value, (low, _) in zip(values, limits, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 2}


def _ends(panel: Panel) -> list[float]:
    """Returns where horizontal lines begin and end, a little beyond the outermost points."""
    xs = [x for series in panel.series for x in series.x] or [1.0, 2.0]
    if panel.log:
        return [min(xs) / 1.15, max(xs) * 1.15]
    return [min(xs) - 0.5, max(xs) + 0.5]


def _add_grid(figure: go.Figure, cell: dict[str, int], grid: Grid, low: float, high: float) -> None:
    texts = [[text.replace("\n", "<br>") for text in line] for line in grid.texts]
    temperatures, layers = [f"{value:g}" for value in grid.temperatures], [str(layer) for layer in grid.layers]
    heat = go.Heatmap(
        x=temperatures,
        y=layers,
        z=grid.values,
        text=texts,
        texttemplate="%{text}",
        colorscale="Cividis",
        zmin=low,
        zmax=high,
    )
    heat.update(showscale=False, hovertemplate="agg_layer %{y}, temperature %{x}<br>%{text}<extra></extra>")
    figure.add_trace(heat, **cell)
    figure.update_xaxes(title_text="temperature of the cross-attention", type="category", **cell)
    figure.update_yaxes(title_text="agg_layer (0-based)", type="category", autorange="reversed", **cell)


def _add_bars(figure: go.Figure, cell: dict[str, int], bars: Bars) -> None:
    first = cell == {"row": 1, "col": 1}
    labels = [escape(label) for label in bars.labels]
    sides = (("right to wrong", VERMILLION, -1, bars.lost, 0), ("wrong to right", BLUE, 1, bars.won, 1))
    for name, color, sign, shares, side in sides:
        values = [share for share, _, _ in shares]
        error = _error(values, [(low, high) for _, low, high in shares]) or {}
        if sign < 0:
            error |= {"array": error["arrayminus"], "arrayminus": error["array"]}
        texts = [
            f"{count[side]} answers {name}, {share:.1f}%" for count, share in zip(bars.counts, values, strict=True)
        ]
        bar = go.Bar(x=[sign * value for value in values], y=labels, orientation="h", name=name, marker_color=color)
        bar.update(error_x=error, customdata=texts, hovertemplate="%{y}<br>%{customdata}<extra></extra>")
        figure.add_trace(bar.update(legendgroup=name, showlegend=first), **cell)
    label = f"changed answers, % of all (n = {bars.n}, 95% intervals)"
    # Ticks to the left of zero are shares too, so they are labelled without a minus sign.
    figure.update_xaxes(
        title_text=label, tickformat="~f", labelalias={f"\u2212{tick}": str(tick) for tick in range(101)}, **cell
    )
    figure.update_yaxes(autorange="reversed", type="category", **cell)
