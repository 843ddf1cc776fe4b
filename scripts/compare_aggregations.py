"""Compares a sweep's aggregations with one of them, pair by pair at the same method and kept, on the same questions.

    python -m runners.sweep method=fps kept=8,16 agg_layer=2 aggregation=cross_attention,learned limit=1000 \\
        'controls=[full]' latency.repeats=0 name=learned logger=none --multirun
    python scripts/compare_aggregations.py outputs/learned

Prints the difference in points with its 95% interval, how many questions only the one or only the other answers right,
and the p of McNemar's exact test.
"""

import argparse
from pathlib import Path

import pandas as pd

from analysis import compare, load_predictions, load_results

COLUMNS = ("n", "accuracy", "reference_accuracy", "difference", "diff_low", "diff_high", "b", "c", "p_value")


def compared(folder: Path, reference: str) -> pd.DataFrame:
    """A row for each point of another aggregation than `reference`, with that of the same method, kept and layers."""
    results, predictions = load_results(folder), load_predictions(folder)
    points = results[(results["status"] == "complete") & results["aggregation"].notna()]
    rows = []
    alike = points[["pool", "method", "kept", "kept_share", "agg_layer", "stages"]].apply(
        lambda row: str([*row]), axis=1
    )
    for index, base in points[points["aggregation"] == reference].iterrows():
        same = alike == alike[index]
        others = points[same & (points["aggregation"] != reference)].set_index("key")["aggregation"]
        table = compare(results, predictions, reference=base["key"])
        for _, row in table[table["key"].isin(others.index)].iterrows():
            named = {"method": row["method"], "kept": row["kept"], "aggregation": others[row["key"]]}
            rows.append(named | {name: row[name] for name in COLUMNS})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", default="cross_attention")
    options = parser.parse_args()
    with pd.option_context("display.width", 160, "display.float_format", "{:.4g}".format):
        print(compared(options.folder, options.reference).to_string(index=False))
