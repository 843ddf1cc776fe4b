"""Results as tables to read: rounded, with intervals, failed points named. For a paper: `.to_latex(index=False)`."""

import pandas as pd

from analysis.grouping import variants
from analysis.results import pool_titles, tidy


def accuracy_table(results: pd.DataFrame) -> pd.DataFrame:
    """Every point of `load_results` as text: method, kept, setting (where a method has several), n, accuracy in percent
    with its interval, or that it failed or is unfinished, and what it costs; of several pools, the pool."""
    rows = tidy(results)
    shares = 100 * rows[["accuracy", "ci_low", "ci_high"]]
    accuracies = [
        _interval(*share) if status == "complete" and not pd.isna(share[0]) else status
        for status, share in zip(rows["status"], shares.itertuples(index=False), strict=True)
    ]
    table = _named(rows, rows["pool"].map(pool_titles(rows))).assign(**{"accuracy % [95%]": accuracies})
    table["prefill ms"] = rows["prefill_ms_p50"].map("{:.1f}".format, na_action="ignore")
    table["speed-up"] = rows["speedup"].map("{:.2f}x".format, na_action="ignore")
    table["FLOPs ratio"] = rows["flops_ratio"].map("{:.3f}".format, na_action="ignore")
    return _shown(table)


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Every row of `compare` as text: the difference in percentage points with its interval, b and c, p, p after
    Holm's correction, and the smallest difference that could have been found."""
    table = _named(comparison, comparison["pool_title"])
    reference = "" if comparison.empty else comparison["reference"].iloc[0]
    differences = zip(comparison["difference"], comparison["diff_low"], comparison["diff_high"], strict=True)
    table[f"points over {reference} [95%]"] = [
        "" if pd.isna(value) else _interval(value, low, high, sign="+") for value, low, high in differences
    ]
    table["b : c"] = ["" if pd.isna(b) else f"{b} : {c}" for b, c in zip(comparison["b"], comparison["c"], strict=True)]
    table["p"] = comparison["p_value"].map(probability, na_action="ignore")
    table["p (Holm)"] = comparison["p_holm"].map(probability, na_action="ignore")
    table["detectable"] = comparison["detectable"].map("{:.1f}".format, na_action="ignore")
    return _shown(table.assign(note=comparison["note"]))


def probability(value: float) -> str:
    """A p-value as it is written."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _named(rows: pd.DataFrame, pools: pd.Series) -> pd.DataFrame:
    table = pd.DataFrame({"pool": pools, "method": rows["method"], "kept": rows["kept"], "setting": variants(rows)})
    table["n"] = rows["n"]
    return table


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing; NA as a blank."""
    text = table.astype(object).where(table.notna(), "")
    silent = [name for name in ("setting", "note", "detectable") if name in text and (text[name] == "").all()]
    silent += ["pool"] if text["pool"].nunique() <= 1 else []
    return text.drop(columns=silent).reset_index(drop=True)
