"""What a sweep's table says of its lines: differences from fastv, the columns that vary, and records for files."""

import json
from collections.abc import Sequence
from typing import Any

from tokensel.data.protocol import CHOICES
from tokensel.evaluation.statistics import compare_seeds
from tokensel.evaluation.stored_answers import agreement
from tokensel.evaluation.sweep.rows import WITHOUT_KEPT, TableRow, shared_answers

# Settings that get a column only where points of one method differ in them.
OPTIONAL = (
    "model",
    "data",
    "scoring",
    *CHOICES,
    "budget",
    "stages",
    "agg_layer",
    "temperature",
    "aggregation",
    "aggregator",
    "layout",
    "position",
    "seed",
    "code",
)
# Costs of two points are equal if they differ by no more than this share.
EQUAL_COST = 0.05


def compare(one: TableRow, other: TableRow) -> dict[str, float] | None:
    """The two lines over the questions that both answered, see `compare_seeds`; None if there are none.

    difference: in percentage points (one - other). p_value: two-sided.
    """
    answers = shared_answers([one, other])
    if not answers:
        return None
    found = compare_seeds(answers[0], answers[1])
    return {"difference": 100 * found.difference, "p_value": found.p_value, "n": found.n}


def fastv_beside(result: TableRow, results: Sequence[TableRow]) -> TableRow | None:
    """The line of fastv at the same kept or budget and layout, preferably at the same layer and with most questions.

    None for fastv itself, and if there is no such line.
    """
    if not result.is_current or result.setting["method"] in (*WITHOUT_KEPT, "fastv"):
        return None
    fastv = [
        other
        for other in results
        if other.setting["method"] == "fastv"
        and other.competes
        and other.pool == result.pool
        and result.setting["layout"] in (None, other.setting["layout"])
        and (set(other.budgets) & set(result.budgets) or other.setting["kept"] == result.setting["kept"])
    ]

    def distance(other: TableRow) -> tuple:
        same_budget = bool(set(other.budgets) & set(result.budgets))
        layer = other.setting["agg_layer"]
        return not same_budget, layer != result.setting["agg_layer"], -other.asked, layer or 0

    return min(fastv, key=distance, default=None)


def against_fastv(result: TableRow, results: Sequence[TableRow]) -> dict[str, float] | None:
    """A line compared with `fastv_beside`, see `compare`; None if there is none.

    cost: its FLOPs over fastv's; 1 where they are unknown.
    """
    fastv = fastv_beside(result, results)
    found = None if fastv is None else compare(result, fastv)
    if fastv is None or found is None:
        return None
    mine, its = result.metrics.get("flops_ratio"), fastv.metrics.get("flops_ratio")
    return found | {"cost": mine / its if mine and its else 1.0}


def agreement_with_full(result: TableRow, results: Sequence[TableRow]) -> float | None:
    """The share of a line's answers that equal the full model's, right or wrong; of several seeds, their mean.

    None for the full model itself, and where nothing can be compared.
    """
    full = [row for row in results if row.setting["method"] == "full" and row.is_current and row.pool == result.pool]
    if not full or not result.metrics.get("n") or result.setting["method"] == "full":
        return None
    reference = max(full, key=lambda row: row.asked).answers[0]
    shares = [agreement(each, reference) for each in result.answers]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def varying_columns(results: Sequence[TableRow]) -> list[str]:
    """The optional settings, method options included, in which two lines of the same method differ.

    Different methods always differ in some: fps puts survivors in front, fastv leaves them in their place.
    """
    options = sorted({name for result in results for name in result.setting if name.startswith("method.")})
    return [name for name in (*OPTIONAL, *options) if _varies(name, results)]


def _varies(name: str, results: Sequence[TableRow]) -> bool:
    values: dict[str, set[str]] = {}
    for result in results:
        value = result.setting.get(name)
        # Points that draw nothing, or several seeds, have no seed; those of other aggregations no aggregator.
        if name not in ("seed", "aggregator") or value is not None:
            values.setdefault(result.setting["method"], set()).add(json.dumps(value))
    return any(len(distinct) > 1 for distinct in values.values())


def as_record(result: TableRow, results: Sequence[TableRow]) -> dict[str, Any]:
    """A line's settings and figures as one flat dictionary, for results.parquet and the JSON output."""
    figures: dict[str, Any] = {}
    for name, value in result.metrics.items():
        if name.endswith("_ms"):
            figures |= {f"{name}_{quartile}": (value or {}).get(quartile) for quartile in ("p25", "p50", "p75")}
        elif name == "yes_no":
            figures |= {f"yes_no_{part}": figure for part, figure in value.items() if not isinstance(figure, dict)}
        elif not isinstance(value, dict | list):
            figures[name] = value
    fastv = against_fastv(result, results)
    return {
        "key": result.key,
        **{name: value for name, value in result.setting.items() if name not in ("identity", "seeds")},
        "seeds": result.setting.get("seeds"),
        "keys": " ".join(result.keys),
        "kept": result.kept,
        "kept_share": result.setting["kept"] if isinstance(result.setting["kept"], str) else None,
        **figures,
        "accuracy_sd": result.metrics.get("accuracy_sd"),
        "chance": result.chance,
        "superseded": result.superseded,
        "vs_fastv_points": value_of(fastv, "difference"),
        "vs_fastv_p": value_of(fastv, "p_value"),
        "vs_fastv_flops": value_of(fastv, "cost"),
        "agreement": agreement_with_full(result, results),
        "error": result.error,
    }


def value_of(pair: dict[str, float] | None, name: str) -> float | None:
    """An entry of a comparison; None if nothing was compared."""
    return None if pair is None else pair[name]
