"""Figures from a sweep's frame: what people would rather look at than read."""

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLORS = {"fps": "#0072B2", "tome": "#D55E00", "fastv": "#009E73", "random": "#999999"}
_OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_CONTROLS = ("full", "no_image")
# What rows must share to stand in one panel.
_POOL = ["model", "data", "scoring"]


def accuracy_over_kept(frame: pd.DataFrame) -> Figure:
    """Accuracy in percent over kept visual tokens, a line per method with Wilson 95% intervals.

    frame: as `load_results` gives it; a panel for each model, data set and scoring in it. The full model, no_image and
    chance are horizontal lines. Where a method was run with several settings at one kept (layers, temperatures), each
    is a point of its own. Failed points are left out.
    """
    done = frame[frame["accuracy"].notna() & (frame["error"] == "")]
    pools = list(done.groupby(_POOL)) if len(done) else []
    figure = Figure(figsize=(6.4 * max(len(pools), 1), 4.0), layout="constrained")
    for place, (pool, rows) in enumerate(pools):
        axes = figure.add_subplot(1, len(pools), place + 1)
        _panel(axes, rows)
        if len(pools) > 1:
            axes.set_title(", ".join(map(str, pool)))
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    reduced = rows[~rows["method"].isin(_CONTROLS)]
    methods = sorted(reduced["method"].unique(), key=lambda name: (name in ("fastv", "random"), name))
    others, markers = cycle(_OTHERS), cycle(_MARKERS)
    for place, method in enumerate(methods):
        points = reduced[reduced["method"] == method].sort_values("kept")
        accuracy = 100 * points["accuracy"]
        axes.errorbar(
            # A few percent apart, so that intervals at the same kept do not hide each other.
            points["kept"] * 1.03 ** (place - (len(methods) - 1) / 2),
            accuracy,
            yerr=[accuracy - 100 * points["ci_low"], 100 * points["ci_high"] - accuracy],
            label=method,
            color=_COLORS.get(method) or next(others),
            marker=next(markers),
            markersize=5,
            linewidth=1.5 if points["kept"].is_unique else 0,
            elinewidth=1,
            capsize=2,
        )
    for method, style in zip(_CONTROLS, ("-", "--"), strict=True):
        for accuracy in rows[rows["method"] == method]["accuracy"].unique():
            axes.axhline(100 * accuracy, color="black", linewidth=1, linestyle=style, label=method)
    for chance in rows["chance"].unique():
        axes.axhline(100 * chance, color="black", linewidth=1, linestyle=":", label="chance")
    kept = sorted(reduced["kept"].unique())
    if kept and kept[0] > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(kept, [str(int(value)) for value in kept])
    axes.minorticks_off()
    axes.set_xlabel("kept visual tokens")
    counts = sorted(rows["n"].astype(int).unique())
    axes.set_ylabel(f"accuracy, % (n = {' or '.join(map(str, counts))}, 95% intervals)")
    axes.set_ylim(0, 102)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, fontsize=9)
