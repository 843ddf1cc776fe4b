"""The figures of `analysis.figures` for pages: plotly, with every point's setting under the pointer.

    figure = accuracy_over_kept(load_results("outputs/sweep"))
    figure.to_html(include_plotlyjs=True, full_html=False)    # needs no network

Names out of results and questions are escaped: plotly takes some HTML in its texts.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import charts
from analysis.charts import Bars, Chart, Grid, Panel, Series
from analysis.style import BLACK, BLUE, GREY, VERMILLION, method_style

_COLUMNS = 2
_LINES = {"-": "solid", "--": "dash", ":": "dot"}


def accuracy_over_kept(results: pd.DataFrame) -> go.Figure:
    """As `analysis.figures.accuracy_over_kept`."""
    return _figure(charts.accuracy_over_kept(results))


def accuracy_over_cost(results: pd.DataFrame, cost: str = "prefill_ms") -> go.Figure:
    """As `analysis.figures.accuracy_over_cost`."""
    return _figure(charts.accuracy_over_cost(results, cost))


def accuracy_by_group(groups: pd.DataFrame) -> go.Figure:
    """As `analysis.figures.accuracy_by_group`."""
    return _figure(charts.accuracy_by_group(groups))


def difference_to_reference(comparison: pd.DataFrame) -> go.Figure:
    """As `analysis.figures.difference_to_reference`."""
    return _figure(charts.difference_to_reference(comparison))


def layer_temperature(results: pd.DataFrame, method: str | None = None, kept: int | None = None) -> go.Figure:
    """As `analysis.figures.layer_temperature`."""
    chart = charts.layer_temperature(results, method, kept)
    figure, places = _sheet(chart, 70 + 60 * max(len(grid.layers) for grid in chart.panels))
    known = [value for grid in chart.panels for line in grid.values for value in line if value is not None]
    for place, grid in zip(places, chart.panels, strict=True):
        _add_grid(figure, place, grid, min(known), max(known))
    return figure


def answer_flips(counts: pd.DataFrame) -> go.Figure:
    """As `analysis.figures.answer_flips`."""
    chart = charts.answer_flips(counts)
    figure, places = _sheet(chart, 60 + 22 * max(len(bars.rows) for bars in chart.panels))
    for place, bars in zip(places, chart.panels, strict=True):
        _add_bars(figure, place, bars)
    return figure.update_layout(barmode="overlay")


def _figure(chart: Chart[Panel]) -> go.Figure:
    figure, places = _sheet(chart, 340)
    shown: set[str] = set()
    for place, panel in zip(places, chart.panels, strict=True):
        _add(figure, place, panel, shown)
    return figure


def _sheet(chart: Chart[Any], height: int) -> tuple[go.Figure, list[dict[str, int]]]:
    """A figure with a subplot for each panel, each `height` pixels high, the row and column of each; and the note."""
    count = len(chart.panels)
    columns = min(max(count, 1), _COLUMNS)
    rows = max(math.ceil(count / columns), 1)
    titles = [escape(panel.title) for panel in chart.panels]
    whole = height * rows + 150
    gap = {"vertical_spacing": min(110 / whole, 0.9 / (rows - 1)) if rows > 1 else 0, "horizontal_spacing": 0.16}
    figure = make_subplots(rows, columns, subplot_titles=titles, **gap)
    figure.update_annotations(font_size=12)
    figure.update_layout(template="plotly_white", height=whole, margin={"t": 50, "b": 90, "l": 70, "r": 20})
    if chart.note:
        below = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "yshift": -62, "xanchor": "left", "yanchor": "top"}
        figure.add_annotation(text=escape(chart.note), showarrow=False, align="left", font_size=11, **below)
    return figure, [{"row": place // columns + 1, "col": place % columns + 1} for place in range(count)]


def _add(figure: go.Figure, place: dict[str, int], panel: Panel, shown: set[str]) -> None:
    """Adds a panel. shown: the names that the legend has already."""
    if len(panel.front) > 1:
        xs, ys = zip(*panel.front, strict=True)
        line = {"color": GREY, "width": 5, "shape": "hv"}
        front = go.Scatter(x=xs, y=ys, mode="lines", line=line, opacity=0.35, hoverinfo="skip")
        _add_named(figure, place, front, "Pareto front", shown)
    for series in panel.series:
        _add_named(figure, place, _trace(series), series.name, shown)
    ends = _ends(panel)
    for name, value, dash in panel.levels:
        line = {"color": BLACK, "width": 1, "dash": _LINES[dash]}
        level = go.Scatter(
            x=ends, y=[value, value], mode="lines", line=line, hovertemplate=f"{escape(name)}: %{{y:.1f}}"
        )
        _add_named(figure, place, level, name, shown)
    axis: dict[str, Any] = {"title_text": panel.x_label, "type": "log" if panel.log else "linear"}
    if panel.ticks:
        axis |= {"tickvals": [x for x, _ in panel.ticks], "ticktext": [escape(words) for _, words in panel.ticks]}
    figure.update_xaxes(**axis, **place)
    figure.update_yaxes(title_text=escape(panel.y_label), **place)


def _add_named(figure: go.Figure, place: dict[str, int], trace: go.Scatter, name: str, shown: set[str]) -> None:
    trace.update(name=escape(name), legendgroup=name, showlegend=name not in shown)
    shown.add(name)
    figure.add_trace(trace, **place)


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
        customdata=[escape(words) for words in series.hover],
        hovertemplate="%{y:.1f}<br>%{customdata}<extra></extra>",
    )


def _error(values: Sequence[float], limits: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    if not limits:
        return None
    above = [max(high - value, 0) for value, (_, high) in zip(values, limits, strict=True)]
    below = [max(value - low, 0) for value, (low, _) in zip(values, limits, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 2}


def _ends(panel: Panel) -> list[float]:
    """Where the horizontal lines begin and end: a little beyond all points."""
    xs = [x for series in panel.series for x in series.x] or [1.0, 2.0]
    if panel.log:
        return [min(xs) / 1.15, max(xs) * 1.15]
    return [min(xs) - 0.5, max(xs) + 0.5]


def _add_grid(figure: go.Figure, place: dict[str, int], grid: Grid, low: float, high: float) -> None:
    words = [[text.replace("\n", "<br>") for text in line] for line in grid.words]
    temperatures, layers = [f"{value:g}" for value in grid.temperatures], [str(layer) for layer in grid.layers]
    heat = go.Heatmap(
        x=temperatures,
        y=layers,
        z=grid.values,
        text=words,
        texttemplate="%{text}",
        colorscale="Cividis",
        zmin=low,
        zmax=high,
    )
    heat.update(showscale=False, hovertemplate="agg_layer %{y}, temperature %{x}<br>%{text}<extra></extra>")
    figure.add_trace(heat, **place)
    figure.update_xaxes(title_text="temperature of the cross-attention", type="category", **place)
    figure.update_yaxes(title_text="agg_layer (0-based)", type="category", autorange="reversed", **place)


def _add_bars(figure: go.Figure, place: dict[str, int], bars: Bars) -> None:
    first = place == {"row": 1, "col": 1}
    rows = [escape(row) for row in bars.rows]
    sides = (("right to wrong", VERMILLION, -1, bars.lost, 0), ("wrong to right", BLUE, 1, bars.won, 1))
    for name, color, sign, shares, side in sides:
        values = [share for share, _, _ in shares]
        error = _error(values, [(low, high) for _, low, high in shares]) or {}
        if sign < 0:
            error |= {"array": error["arrayminus"], "arrayminus": error["array"]}
        told = [f"{count[side]} answers {name}, {share:.1f}%" for count, share in zip(bars.counts, values, strict=True)]
        bar = go.Bar(x=[sign * value for value in values], y=rows, orientation="h", name=name, marker_color=color)
        bar.update(error_x=error, customdata=told, hovertemplate="%{y}<br>%{customdata}<extra></extra>")
        figure.add_trace(bar.update(legendgroup=name, showlegend=first), **place)
    label = f"answers that changed, % of all (n = {bars.n}, 95% intervals)"
    # A tick to the left of zero is a share too.
    figure.update_xaxes(
        title_text=label, tickformat="~f", labelalias={f"\u2212{tick}": str(tick) for tick in range(101)}, **place
    )
    figure.update_yaxes(autorange="reversed", type="category", **place)
