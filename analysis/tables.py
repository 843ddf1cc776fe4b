"""Formats results as tables of rounded text with intervals. For a paper, there is `analysis.paper`."""

import pandas as pd

from analysis.columns import CONTROLS, pool_titles, tidy
from analysis.grouping import variants
from tokensel.evaluation.sweep.results import EQUAL_COST

_OF_KIND = (("n ", ""), ("", " % [95%]"))


def accuracy_table(results: pd.DataFrame) -> pd.DataFrame:
    """Formats each point of `load_results` as one line of text.

    Columns: pool (if there are several), method, kept, setting (if a method has several), n, accuracy in percent with
    its interval, and for several seeds ± their standard deviation ("failed" or "unfinished" for points without one),
    prefill ms, speed-up, visual tokens left after the last stage and averaged over the decoder's layers, FLOPs ratio
    (">": the method has no flops(), so its choice counts as free).
    """
    rows = tidy(results)
    shares = 100 * rows[["accuracy", "ci_low", "ci_high"]]
    accuracies = [
        _interval(value, low, high, spread=spread) if status == "complete" and not pd.isna(value) else status
        for status, (value, low, high), spread in zip(
            rows["status"], shares.itertuples(index=False), 100 * rows["accuracy_sd"], strict=True
        )
    ]
    table = _named(rows, rows["pool"].map(pool_titles(rows))).assign(**{"accuracy % [95%]": accuracies})
    table["prefill ms"] = rows["prefill_ms_p50"].map("{:.1f}".format, na_action="ignore")
    table["speed-up"] = rows["speedup"].map("{:.2f}x".format, na_action="ignore")
    table["tokens left"] = rows["tokens_left"]
    table["tokens per layer"] = rows["tokens_layer_mean"].map("{:.1f}".format, na_action="ignore")
    free = rows["selection_counted"].eq(False).fillna(False).map({True: ">", False: ""})
    table["FLOPs ratio"] = free + rows["flops_ratio"].map("{:.3f}".format, na_action="ignore")
    return _shown(table)


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Formats each row of `compare` as one line of text.

    Columns: those that name the point, n, the difference in percentage points with its interval, b : c, p, p after
    Holm's correction, detectable, note. The note states the point's FLOPs over the reference's where they differ by
    more than 5%, unless the reference reduces nothing.
    """
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
    return _shown(table.assign(note=comparison["note"].fillna("").mask(_unequal(comparison), _costs(comparison))))


def need_table(needs: pd.DataFrame) -> pd.DataFrame:
    """Formats `by_need`: a line for each point, and one column for each kind of questions.

    Columns: pool, method, kept, setting, "at kept" (of the downsample, which full is shown with each of), and for each
    kind n and the accuracy in percent with its interval.
    """
    table = _named(needs, needs["pool_title"]).drop(columns="n").assign(**{"at kept": needs["at_kept"]})
    named = [name for name in table.columns if table[name].notna().any()]
    shares = 100 * needs[["accuracy", "ci_low", "ci_high"]]
    cells = [
        "" if pd.isna(value) else _interval(value, low, high) for value, low, high in shares.itertuples(index=False)
    ]
    table = table[named].assign(key=needs["key"], need=needs["need"], n=needs["n"], cell=cells)
    lines = []
    for _, same in table.groupby([table["key"], needs["at_kept"]], sort=False, dropna=False):
        line = {name: same[name].iloc[0] for name in named}
        for kind, n, cell in zip(same["need"], same["n"], same["cell"], strict=True):
            line |= {f"n {kind}": n, f"{kind} % [95%]": cell}
        lines.append(line)
    columns = [*named, *(f"{start}{kind}{end}" for kind in dict.fromkeys(table["need"]) for start, end in _OF_KIND)]
    return _shown(pd.DataFrame(lines, columns=columns))


def _unequal(comparison: pd.DataFrame) -> pd.Series:
    cost = comparison["cost"].astype(float)
    return ((cost > 1 + EQUAL_COST) | (cost < 1 / (1 + EQUAL_COST))) & ~comparison["reference"].isin(CONTROLS)


def _costs(comparison: pd.DataFrame) -> pd.Series:
    return comparison["cost"].map("{:.2f}x its FLOPs".format, na_action="ignore")


def probability(value: float) -> str:
    """Formats a p-value with three decimal places."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _interval(value: float, low: float, high: float, sign: str = "", spread: float | None = None) -> str:
    deviation = "" if spread is None or pd.isna(spread) else f" ±{spread:.1f}"
    return f"{value:{sign}.1f}{deviation} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _named(rows: pd.DataFrame, pools: pd.Series) -> pd.DataFrame:
    table = pd.DataFrame({"pool": pools, "method": rows["method"], "kept": rows["kept"], "setting": variants(rows)})
    table["n"] = rows["n"]
    return table


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Drops columns without information and shows NA as a blank."""
    text = table.astype(object).where(table.notna(), "")
    empty = [name for name in ("setting", "note", "detectable") if name in text and (text[name] == "").all()]
    empty += ["pool"] if text["pool"].nunique() <= 1 else []
    return text.drop(columns=empty).reset_index(drop=True)
