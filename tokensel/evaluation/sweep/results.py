"""The lines of a sweep's final table: figures, paired tests, and which method is best at each kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean
from typing import Any

from tokensel.data.protocol import CHOICES
from tokensel.engine.kept import count_of, read_kept
from tokensel.evaluation.statistics import mcnemar_exact
from tokensel.evaluation.sweep.budget import read_budget
from tokensel.evaluation.sweep.plan import PlannedPoint
from tokensel.evaluation.sweep.work import GroupWork, PointWork

# Settings that get a column only where points of one method differ in them.
OPTIONAL = (
    "model",
    "data",
    "scoring",
    *CHOICES,
    "limit",
    "budget",
    "stages",
    "agg_layer",
    "temperature",
    "aggregation",
    "layout",
    "position",
    "seed",
)


@dataclass
class TableRow:
    """One line of the table.

    key: the point's. setting: what the columns show. metrics: the stored figures, for this line's questions. correct:
    by question id. chance: accuracy of guessing. error: why the point failed, or "".
    """

    key: str
    setting: dict[str, Any]
    metrics: dict[str, Any]
    correct: dict[str, bool]
    chance: float
    error: str = ""

    @property
    def pool(self) -> tuple[str, ...]:
        """Equal for lines with the same questions, model and protocol: only those are compared."""
        return tuple(str(self.setting[name]) for name in ("model", "data", "scoring", *CHOICES, "limit"))

    @property
    def kept(self) -> int | None:
        """The count that kept asks for, after the last stage; None: nothing, or a share of an unknown number."""
        kept = self.setting["kept"]
        if not isinstance(kept, str):
            return kept
        visual_tokens = self.metrics.get("provenance", {}).get("protocol", {}).get("visual_tokens")
        return None if visual_tokens is None else count_of(read_kept(kept), visual_tokens)

    @property
    def compared_at(self) -> tuple[str, float] | None:
        """The budget or the kept, in words and as a number, at which this line competes with others.

        None for full, no_image and failed points.
        """
        if self.error or self.setting["method"] in ("full", "no_image"):
            return None
        if budget := self.setting.get("budget"):
            return f"budget {budget}", read_budget(budget).target
        return f"kept {self.setting['kept']}", self.kept or 0


def table_rows(works: Sequence[GroupWork]) -> list[TableRow]:
    """The lines of the final table, in its order."""
    return [_table_row(work, planned, work.points[key]) for work in works for planned, key in work.lines]


def _table_row(work: GroupWork, planned: PlannedPoint, point: PointWork) -> TableRow:
    questions = work.first(planned.limit)
    setting: dict[str, Any] = {"model": work.group.model.path, "data": work.group.data.name}
    setting |= {"scoring": work.group.scoring, **work.group.protocol_settings, "limit": planned.limit}
    setting["budget"] = None if planned.budget is None else str(planned.budget)
    own = planned.point.settings()
    del own["method_options"]  # as they are stored: a method may say what takes effect on this model
    options = {f"method.{name}": value for name, value in point.settings["method_options"].items()}
    not_figures = ("key", "code", "protocol", "questions", *setting, *own)
    metrics = {name: value for name, value in (point.metrics or {}).items() if name not in not_figures}
    answered = [record for record in point.predictions(questions) if not record.get("skipped")]
    return TableRow(
        key=point.key,
        setting=setting | own | options,
        # The stored figures are those of the largest set of questions.
        metrics=metrics | point.figures(questions),
        correct={record["id"]: bool(record["correct"]) for record in answered},
        chance=mean(1 / len(question.choices) for question in questions),
        error=point.error,
    )


def compare(one: TableRow, other: TableRow) -> dict[str, float] | None:
    """McNemar's exact test over the questions that both answered; None if there are none.

    difference: in percentage points (one - other). p_value: two-sided.
    """
    shared = [id for id in one.correct if id in other.correct]
    if not shared:
        return None
    a, b = [one.correct[id] for id in shared], [other.correct[id] for id in shared]
    return {
        "difference": 100 * (sum(a) - sum(b)) / len(shared),
        "p_value": float(mcnemar_exact(a, b).p_value),
    }


def against_fastv(result: TableRow, results: Sequence[TableRow]) -> dict[str, float] | None:
    """A line compared with fastv at the same kept or budget and layout, preferably at the same layer.

    None for fastv itself, and if there is no such line.
    """
    if result.compared_at is None or result.setting["method"] == "fastv":
        return None
    fastv = [
        other
        for other in results
        if other.setting["method"] == "fastv"
        and other.compared_at == result.compared_at
        and other.pool == result.pool
        and other.setting["layout"] == result.setting["layout"]
    ]
    beside = [other for other in fastv if other.setting["agg_layer"] == result.setting["agg_layer"]]
    nearest = beside or sorted(fastv, key=lambda other: other.setting["agg_layer"])
    return compare(result, nearest[0]) if nearest else None


def best_at_each_kept(results: Sequence[TableRow]) -> list[dict[str, Any]]:
    """For every pool and kept or budget: the most accurate line, the best of another method, and their McNemar p."""
    varying = varying_columns(results)
    best = []
    competing = [result for result in results if result.compared_at is not None and result.metrics.get("n")]
    order: Callable[[TableRow], tuple] = lambda result: (result.pool, *(result.compared_at or ())[::-1])  # noqa: E731
    for (_, _, at), same in groupby(sorted(competing, key=order), key=order):
        # On equal accuracy the name decides, so that the same results always give the same line.
        ranked = sorted(same, key=lambda result: (-result.metrics["accuracy"], result.setting["method"], result.key))
        first = ranked[0]
        second = next((r for r in ranked if r.setting["method"] != first.setting["method"]), None)
        best.append(
            {
                "at": at,
                "kept": first.kept,
                "budget": first.setting.get("budget"),
                "method": first.setting["method"],
                "where": {name: first.setting.get(name) for name in varying},
                "accuracy": first.metrics["accuracy"],
                "runner_up": second.setting["method"] if second else None,
                "p_value": value_of(compare(first, second), "p_value") if second else None,
            }
        )
    return best


def varying_columns(results: Sequence[TableRow]) -> list[str]:
    """The optional settings, method options included, in which two lines of the same method differ.

    Different methods always differ in some: fps puts survivors in front, fastv leaves them in their place.
    """
    options = sorted({name for result in results for name in result.setting if name.startswith("method.")})
    return [name for name in (*OPTIONAL, *options) if _varies(name, results)]


def _varies(name: str, results: Sequence[TableRow]) -> bool:
    values: dict[str, set[str]] = {}
    for result in results:
        values.setdefault(result.setting["method"], set()).add(json.dumps(result.setting.get(name)))
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
        **result.setting,
        "kept": result.kept,
        "kept_share": result.setting["kept"] if isinstance(result.setting["kept"], str) else None,
        **figures,
        "chance": result.chance,
        "vs_fastv_points": value_of(fastv, "difference"),
        "vs_fastv_p": value_of(fastv, "p_value"),
        "error": result.error,
    }


def value_of(pair: dict[str, float] | None, name: str) -> float | None:
    """An entry of a comparison; None if nothing was compared."""
    return None if pair is None else pair[name]
