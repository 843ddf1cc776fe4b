"""The curve of a training: loss and answers on the validation questions, over the steps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.style import BLUE, GREY, RC, VERMILLION
from runners.terminal.arguments import write_whole

_COLORS = (BLUE, VERMILLION, "#009E73", "#CC79A7")


def draw_curve(record: Mapping[str, Any], path: Path) -> None:
    """Draws log.json, as `runners.train_aggregator` writes it. The dashed line is plain cross-attention."""
    import matplotlib
    from matplotlib.figure import Figure

    log = record["log"]
    kept = [name.removeprefix("loss@") for name in log[0] if name.startswith("loss@")]
    panels = (("loss", "KL to the full model, nats", 1), ("accuracy", "accuracy, %", 100))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.5, 2.8), layout="constrained")
        for axis, (name, label, scale) in zip(figure.subplots(1, 2), panels, strict=True):
            for each, color in zip(kept, _COLORS, strict=False):
                points = [(line["step"], scale * line[f"{name}@{each}"]) for line in log if f"{name}@{each}" in line]
                if not points:
                    continue
                axis.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=f"kept={each}")
                axis.axhline(points[0][1], color=color, linestyle="--", linewidth=0.8)
            axis.axvline(record["best_step"], color=GREY, linewidth=0.8)
            axis.set_xlabel("steps")
            axis.set_title(f"{label}, {record['validation_questions']} validation questions")
            axis.legend()
        data = io.BytesIO()
        figure.savefig(data, format=path.suffix.removeprefix("."))
    write_whole(path, data.getvalue(), "output_dir")
