"""The columns of a frame of results: their types, which rows are complete, and how pools are named."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tokensel.data.protocol import CHOICES

PROTOCOL = tuple(CHOICES)
# The settings in which two points of one method can differ, besides kept and the method's own options.
SETTINGS = ("agg_layer", "stages", "temperature", "aggregation", "aggregator", "layout", "position", "seed", "code")
# Methods whose kept is fixed. They are compared with points of every kept.
CONTROLS = ("full", "no_image")
# Controls that are run at every kept, to compare methods with; none of them is named the best.
AT_EVERY_KEPT = ("fastv", "random", "downsample")
TIMES = ("select_ms", "vision_ms", "prefill_ms", "decode_ms", "total_ms")
_IDENTITY = ("model", "model_revision", "dtype", "data", "data_options", "data_digest", "questions", "scoring")
_QUARTILES = tuple(f"{time}_{quartile}" for time in TIMES for quartile in ("p25", "p50", "p75"))
_TOKENS = ("tokens_layer_mean", "tokens_left", "kept_mean", "kept_sd", "selection_counted")
_COSTS = ("speedup", "speedup_total", "flops", "flops_ratio", "kv_bytes", *_TOKENS, "peak_memory_bytes")
# What the columns of figures begin with that only some data sets have.
_OWN = ("yes_no_", "benchmark_")
_TIES = ("near_ties", "n_tied_choice", "n_ties")
FIGURES = ("n", "correct", "skipped", "accuracy", "accuracy_sd", "ci_low", "ci_high", *_COSTS, "min_margin", *_TIES)
# Every column, in order, with its type.
COLUMN_TYPES = (
    dict.fromkeys(("key", "folder", "sweep", "status", "error"), "string")
    | {"superseded": "boolean"}
    | dict.fromkeys((*_IDENTITY, *PROTOCOL, "pool", "method"), "string")
    | {"kept": "Int64", "kept_share": "string", "budget": "string"}
    | {"agg_layer": "Int64", "stages": "string", "temperature": "Float64"}
    | dict.fromkeys(("aggregation", "aggregator", "layout", "position"), "string")
    | {"seed": "Int64", "seeds": "string", "keys": "string", "code": "string"}
    | dict.fromkeys(("n", "correct", "skipped"), "Int64")
    | dict.fromkeys(("accuracy", "accuracy_sd", "ci_low", "ci_high", "chance"), "Float64")
    | dict.fromkeys((*_QUARTILES, "speedup", "speedup_total"), "Float64")
    | {"flops": "Int64", "flops_ratio": "Float64", "kv_bytes": "Int64", "tokens_layer_mean": "Float64"}
    | {"tokens_left": "Int64", "kept_mean": "Float64", "kept_sd": "Float64"}
    | {"selection_counted": "boolean", "peak_memory_bytes": "Int64", "min_margin": "Float64"}
    | dict.fromkeys(_TIES, "Int64")
    | {"command": "string", "device": "string", "threads": "Int64", "versions": "string", "commit": "string"}
)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Converts a frame read from results.parquet to the columns of `load_results`. Returns other frames unchanged.

    results.parquet contains no digests, so the pools are formed from the names of the model and the data.
    """
    if "pool" in frame.columns:
        return frame
    records = []
    for line in frame.to_dict("records"):
        record = {str(name): value for name, value in line.items() if not str(name).startswith("vs_")}
        record["error"] = record.get("error") or None
        unfinished = pd.isna(record.get("accuracy"))
        record["status"] = "failed" if record["error"] else "unfinished" if unfinished else "complete"
        protocol = {name: record[name] for name in PROTOCOL if not _is_missing(record.get(name))}
        record["pool"] = pool_of(f"model={record['model']}", record["data"], record["scoring"], protocol or None)
        records.append(record)
    return typed(pd.DataFrame(records, columns=None if records else list(frame.columns)))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds missing columns of COLUMN_TYPES, sets their order and types, and puts yes_no_X, benchmark_X and method.X
    columns last."""
    more = [
        name for prefix in (*_OWN, "method.") for name in sorted(map(str, frame.columns)) if name.startswith(prefix)
    ]
    frame = frame.reindex(columns=[*COLUMN_TYPES, *more])
    return frame.astype(COLUMN_TYPES | {name: "Float64" for name in more if name.startswith(_OWN)})


def complete(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that can be drawn and compared: complete ones, without points of earlier code.

    A point that several sweeps contain appears once, with most questions, and then with times if it has any.
    """
    rows = tidy(results)
    rows = rows[(rows["status"] == "complete") & rows["accuracy"].notna() & ~rows["superseded"].fillna(False)]
    best = rows.sort_values(["n", "prefill_ms_p50"], ascending=[False, True], kind="stable")
    return best.drop_duplicates(["pool", "key"]).sort_index()


def option_columns(results: pd.DataFrame) -> list[str]:
    """Returns the names of the columns that hold methods' own options."""
    return [name for name in results.columns if name.startswith("method.")]


def pool_titles(results: pd.DataFrame) -> dict[str, str]:
    """Returns a short title for each pool: its model, its data, and only those settings that differ between pools."""
    rows = tidy(results).sort_values("status", kind="stable")  # complete rows first: they have the most values
    firsts = rows.drop_duplicates("pool").set_index("pool")
    shown = ["model", "data"]
    settings = ("scoring", *PROTOCOL, "dtype", "model_revision", "data_options", "data_digest")
    for name in settings if len(firsts) > 1 else ():
        if firsts[[*shown, name]].drop_duplicates().shape[0] > firsts[shown].drop_duplicates().shape[0]:
            shown.append(name)
    forms = dict.fromkeys(PROTOCOL, "{name}={value}")
    return {
        str(pool): ", ".join(
            forms.get(name, "{value}").format(name=name, value=row[name])
            for name in shown
            if not _is_missing(row[name])
        )
        for pool, row in firsts.iterrows()
    }


def pool_of(model: str, data: Any, scoring: Any, protocol: Mapping[str, Any] | None) -> str:
    """Returns the identifier of a pool, which contains everything that its points must share.

    Points of one pool may have answered different numbers of its questions; comparisons use those that both answered.
    """
    stated = "protocol=?"
    if protocol is not None:
        stated = " ".join(f"{name}={protocol[name]}" for name in PROTOCOL if protocol.get(name) is not None)
    return " | ".join((model, f"data={data}", f"scoring={scoring}", stated))


def _is_missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))
