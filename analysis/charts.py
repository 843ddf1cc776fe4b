"""Turns frames into the contents of figures, shared by `analysis.figures` and `analysis.interactive`.

Nothing is averaged: every grid point is one mark, and every pool has its own panel.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.columns import CONTROLS, complete
from analysis.grouping import (
    facets,
    floats,
    hover,
    kept_ticks,
    limits,
    percent,
    point_words,
    series_of,
    shortfall,
    span,
    variants,
)
from analysis.panels import Bars, Chart, Grid, Panel, Series
from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import wilson_interval

# For each cost: its column (a time has three: median, lower and upper quartile), the unit, and the label of the axis.
COSTS: dict[str, tuple[tuple[str, ...], float, str]] = {
    time: ((f"{time}_p50", f"{time}_p25", f"{time}_p75"), 1, f"{words} at batch 1, ms (median and quartiles)")
    for time, words in (
        ("prefill_ms", "prefill with the vision tower"),
        ("total_ms", "prefill and decoding"),
        ("select_ms", "selection"),
    )
} | {
    "prefill_ratio": (("prefill_ratio",), 0.01, "prefill time, % of the full model's beside it"),
    "flops_ratio": (("flops_ratio",), 0.01, "prefill FLOPs, % of the full model's"),
    "flops": (("flops",), 1e9, "prefill FLOPs, 10⁹"),
    "kv_bytes": (("kv_bytes",), 2**20, "KV cache after prefill, MiB"),
    "peak_memory_bytes": (("peak_memory_bytes",), 2**20, "peak memory, MiB"),
}


def accuracy_over_kept(results: pd.DataFrame) -> Chart[Panel]:
    """One line per method and setting. full, no_image and chance are horizontal lines."""
    rows = complete(results)
    return Chart([_kept_panel(title, same) for title, same in facets(rows, ["pool"])], shortfall(results))


def _kept_panel(title: str, rows: pd.DataFrame) -> Panel:
    reduced = rows[~rows["method"].isin(CONTROLS)]
    ticks, log = kept_ticks(reduced)
    series = [
        Series(
            **named,
            x=[kept * shift if log else kept for kept in floats(same["kept"])],
            y=percent(same["accuracy"]),
            y_limits=limits(same, "ci_low", "ci_high", 0.01),
            hover=hover(same),
            joined=same["kept"].is_unique,
        )
        for named, same, shift in series_of(reduced)
    ]
    levels = [
        (method, 100 * accuracy, dash)
        for method, dash in zip(CONTROLS, ("-", "--"), strict=True)
        for accuracy in floats(rows.loc[rows["method"] == method, "accuracy"].drop_duplicates())
    ]
    levels += [("chance", 100 * chance, ":") for chance in floats(rows["chance"].dropna().drop_duplicates())]
    label = f"accuracy, % (n = {span(rows['n'])}, 95% intervals)"
    return Panel(title, "kept visual tokens", label, series, levels, ticks, log)


def accuracy_over_cost(results: pd.DataFrame, cost: str = "prefill_ms") -> Chart[Panel]:
    """Every point that has this cost, labelled with its kept, and the Pareto front. Each device has its own panel."""
    if cost not in COSTS:
        raise TokenselError(f"cost={cost}: unknown; choose one of {', '.join(COSTS)}")
    columns, unit, label = COSTS[cost]
    rows = complete(results)
    rows = rows.assign(prefill_ratio=1 / rows["speedup"]).dropna(subset=columns[0])
    if rows.empty:
        raise TokenselError(
            f"cost={cost}: no complete point has it; choose another cost, or measure times with latency.repeats=5"
        )
    by = ["pool"] if cost in ("flops", "flops_ratio", "kv_bytes") else ["pool", "device", "threads"]
    note = f"Numbers: kept visual tokens. {shortfall(results)}"
    return Chart([_cost_panel(*facet, columns, unit, label) for facet in facets(rows, by)], note.strip())


def _cost_panel(title: str, rows: pd.DataFrame, columns: Sequence[str], unit: float, label: str) -> Panel:
    series = [
        Series(
            **named,
            x=[value / unit for value in floats(same[columns[0]])],
            y=percent(same["accuracy"]),
            x_limits=limits(same, columns[1], columns[2], unit) if len(columns) == 3 else [],
            y_limits=limits(same, "ci_low", "ci_high", 0.01),
            hover=hover(same),
            marks=["" if pd.isna(kept) else str(kept) for kept in same["kept"]],
            joined=same["kept"].is_unique,
        )
        for named, same, _ in series_of(rows)
    ]
    y_label = f"accuracy, % (n = {span(rows['n'])}, 95% intervals)"
    points = [point for each in series for point in zip(each.x, each.y, strict=True)]
    return Panel(title, label, y_label, series, front=pareto_front(points))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the (cost, accuracy) points that no other point dominates, by rising cost.

    A point dominates another if it is better in cost or accuracy and not worse in the other.
    """
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def accuracy_by_group(groups: pd.DataFrame) -> Chart[Panel]:
    """Every method's accuracy in each group of questions, with one panel per kept. groups: from `by_group`."""
    if groups.empty:
        raise TokenselError("by_group: no complete point answered any question that has a group")
    reduced = groups[~groups["method"].isin(CONTROLS)]
    controls = groups[groups["method"].isin(CONTROLS)]
    panels = []
    for (pool, kept), same in reduced.groupby(["pool", "kept"], sort=True):
        rows = pd.concat([same, controls[controls["pool"] == pool]])
        names = sorted(rows["group"].unique())
        series = []
        parts = list(series_of(rows))
        for index, (named, own, _) in enumerate(parts):
            shift = 0.7 * ((index + 0.5) / len(parts) - 0.5)
            series.append(
                Series(
                    **named,
                    x=[names.index(name) + shift for name in own["group"]],
                    y=percent(own["accuracy"]),
                    y_limits=limits(own, "ci_low", "ci_high", 0.01),
                    hover=hover(own, "group"),
                    joined=False,
                )
            )
        ticks = [(float(index), str(name)) for index, name in enumerate(names)]
        label = f"accuracy, % (n = {span(rows['n'])} per group, 95% intervals)"
        panels.append(
            Panel(f"{same['pool_title'].iloc[0]}, {kept} kept", "group of questions", label, series, ticks=ticks)
        )
    return Chart(panels)


def difference_to_reference(comparison: pd.DataFrame) -> Chart[Panel]:
    """Each point's accuracy minus the reference's, over kept. comparison: from `compare`.

    Markers are filled if the difference is significant after Holm's correction, else hollow.
    """
    rows = comparison.dropna(subset="difference")
    if rows.empty:
        raise TokenselError("compare: no point has a reference at its kept, so there is no difference to draw")
    reference = rows["reference"].iloc[0]
    panels = []
    for _, same in rows.groupby("pool", sort=False):
        ticks, log = kept_ticks(same)
        series = [
            Series(
                **named,
                x=[kept * shift if log else kept for kept in floats(own["kept"])],
                y=floats(own["difference"]),
                y_limits=limits(own, "diff_low", "diff_high", 1),
                hover=hover(own, "b", "c", "p_value", "p_holm"),
                hollow=[p >= 0.05 for p in floats(own["p_holm"])],
                joined=own["kept"].is_unique,
            )
            for named, own, shift in series_of(same)
        ]
        label = f"accuracy minus {reference}'s, points (n = {span(same['n'])} pairs, 95% intervals)"
        title = same["pool_title"].iloc[0]
        panels.append(Panel(title, "kept visual tokens", label, series, [(reference, 0.0, "-")], ticks, log))
    note = "Filled markers: p < 0.05 after Holm's correction."
    if count := comparison["difference"].isna().sum():
        note += f" Not shown: {count} without {reference} at the same kept."
    return Chart(panels, note)


def layer_temperature(results: pd.DataFrame, method: str | None = None, kept: int | None = None) -> Chart[Grid]:
    """Accuracy over agg_layer and temperature, with one heat map for each method, kept and other setting."""
    rows = complete(results).dropna(subset=["agg_layer", "temperature"])
    rows = rows[(rows["method"] == method) | (method is None)]
    rows = rows[(rows["kept"] == kept) | (kept is None)]
    rows = rows.assign(setting=variants(rows, ignore=("agg_layer", "temperature")))
    grids = [
        _grid(title, same)
        for title, same in facets(rows, ["pool", "method", "kept", "setting"])
        if len(same[["agg_layer", "temperature"]].drop_duplicates()) > 1
    ]
    if not grids:
        raise TokenselError(
            f"layer_temperature method={method or 'any'} kept={kept or 'any'}: no method was run at several layers or "
            "temperatures; sweep agg_layer=0,2,4 temperature=0.05,0.1,0.2"
        )
    return Chart(grids, shortfall(results))


def _grid(title: str, rows: pd.DataFrame) -> Grid:
    layers = sorted({int(layer) for layer in rows["agg_layer"]})
    temperatures = sorted(set(floats(rows["temperature"])))
    values: list[list[float | None]] = [[None] * len(temperatures) for _ in layers]
    texts = [[""] * len(temperatures) for _ in layers]
    for row in rows.to_dict("records"):
        layer, temperature = layers.index(row["agg_layer"]), temperatures.index(row["temperature"])
        accuracy, low, high = (100 * row[name] for name in ("accuracy", "ci_low", "ci_high"))
        values[layer][temperature] = accuracy
        texts[layer][temperature] = f"{accuracy:.1f}\n[{low:.0f}, {high:.0f}]"
    return Grid(f"{title}: accuracy, % [95%] (n = {span(rows['n'])})", layers, temperatures, values, texts)


def answer_flips(counts: pd.DataFrame) -> Chart[Bars]:
    """Shares of the reference's answers that changed, with one pair of bars per point. counts: from `flip_counts`."""
    if counts.empty:
        raise TokenselError("flip_counts: no point has a reference at its kept, so there are no changes to draw")
    bars = []
    for _, same in counts.groupby("pool", sort=False):
        rows = pd.concat([own for _, own, _ in series_of(same)]).sort_values("kept", kind="stable", na_position="first")
        names = zip(rows["method"], rows["kept"], rows["setting"], strict=True)
        bars.append(
            Bars(
                title=f"{same['pool_title'].iloc[0]}, against {same['reference'].iloc[0]}",
                n=span(same["n"]),
                labels=[point_words(*each) for each in names],
                methods=list(rows["method"]),
                lost=[_share(*pair) for pair in zip(rows["right_to_wrong"], rows["n"], strict=True)],
                won=[_share(*pair) for pair in zip(rows["wrong_to_right"], rows["n"], strict=True)],
                counts=list(zip(map(int, rows["right_to_wrong"]), map(int, rows["wrong_to_right"]), strict=True)),
            )
        )
    return Chart(bars)


def _share(count: int, n: int) -> tuple[float, float, float]:
    """Returns (share, low, high) in percent, with Wilson's 95% interval."""
    low, high = wilson_interval(int(count), int(n))
    return 100 * int(count) / int(n), 100 * low, 100 * high
