"""The lines of a table: all that folders of results hold, with the seeds of one setting as one line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokensel.auto import Auto
from tokensel.data import data_label
from tokensel.data.protocol import CHOICES
from tokensel.engine.kept import count_of, read_kept
from tokensel.evaluation.statistics import seeded_accuracy
from tokensel.evaluation.stored import StoredPoint, read_points
from tokensel.evaluation.stored_answers import StoredAnswers, shared_correct

_PART_OF_SETTING = ("key", "protocol", "method_options", "budgets", "questions", "provenance")
# Figures that seeds of one setting share, or of which the worst counts.
# Controls that are the same whatever is kept.
WITHOUT_KEPT = ("full", "no_image")
_WORST = ("skipped", "near_ties", "n_tied_choice", "n_ties")


@dataclass
class TableRow:
    """One line of the table: a grid point, or points that differ in their seed alone.

    setting     what the columns show; of several seeds, seed is None and seeds lists them
    metrics     its figures; of several seeds, accuracy is their mean
    points      as stored: one for each seed
    chance      accuracy of guessing; None where it is unknown
    error       why the point failed, or ""
    superseded  whether there is a newer point of the same settings, of other code, with as many questions
    """

    setting: dict[str, Any]
    metrics: dict[str, Any]
    points: Sequence[StoredPoint]
    chance: float | None
    error: str = ""
    superseded: bool = False

    @property
    def key(self) -> str:
        """The point's, or that of the first seed."""
        return self.points[0].key

    @property
    def keys(self) -> list[str]:
        """Of all seeds."""
        return [point.key for point in self.points]

    @property
    def answers(self) -> list[StoredAnswers]:
        """Those of each seed. Raises TokenselError for damaged predictions."""
        return [point.answers for point in self.points]

    @property
    def pool(self) -> tuple[str, ...]:
        """Equal for lines with the same data, model and protocol: only those are compared."""
        identity = self.setting.get("identity", "")
        return (*(str(self.setting[name]) for name in ("model", "data", "scoring", *CHOICES)), str(identity))

    @property
    def kept(self) -> int | None:
        """The count that kept asks for, after the last stage; for auto, the mean of what remained, rounded. None:
        nothing, or a share of an unknown number."""
        kept = self.setting["kept"]
        if not isinstance(kept, str):
            return kept
        if isinstance(read_kept(kept), Auto):
            mean = self.metrics.get("kept_mean")
            return None if mean is None else round(mean)
        visual_tokens = _in(self.metrics, "provenance", "protocol", "visual_tokens")
        return None if visual_tokens is None else count_of(read_kept(kept), visual_tokens)

    @property
    def asked(self) -> int:
        """The number of questions asked, those that were skipped included."""
        return (self.metrics.get("n") or 0) + (self.metrics.get("skipped") or 0)

    @property
    def budgets(self) -> list[str]:
        """The budgets that its kept was solved for."""
        return [each for each in (self.setting.get("budget") or "").split(", ") if each]

    @property
    def competes(self) -> bool:
        """Whether it may be called the best: a complete point of current code that reduces visual tokens."""
        return self.is_current and self.setting["method"] not in (*WITHOUT_KEPT, "downsample")

    @property
    def is_current(self) -> bool:
        """Whether it is a complete point of current code."""
        return not self.error and not self.superseded and bool(self.metrics.get("n"))


def folder_rows(folder: Path) -> list[TableRow]:
    """`table_rows` of everything that a sweep's folder holds. Raises TokenselError for a damaged file."""
    return table_rows(read_points(folder))


def table_rows(points: Sequence[StoredPoint], each_seed: bool = False) -> list[TableRow]:
    """The lines of the table of these points, complete and failed ones, in an order that depends on them alone.

    each_seed: leaves every point a line of its own. Of points with one key, in several folders, that with most
    questions counts.

    Raises TokenselError for damaged predictions.
    """
    distinct: dict[str, StoredPoint] = {}
    for point in points:
        if point.settings and (point.metrics or point.error):
            known = distinct.setdefault(point.key, point)
            if (not point.error, point.asked) > (not known.error, known.asked):
                distinct[point.key] = point
    rows = [_row(point) for point in distinct.values()]
    _mark_superseded(rows)
    return sorted(rows if each_seed else _with_seeds_joined(rows), key=_order)


def _row(point: StoredPoint) -> TableRow:
    settings, metrics = point.settings, dict(point.metrics or {})
    model, data = settings.get("model") or {}, settings.get("data") or {}
    # A checkpoint that was moved is still the same model.
    identity = {name: value for name, value in model.items() if name != "path"} | {"digest": data.get("digest")}
    label = data_label(data.get("name"), data.get("options"))
    setting: dict[str, Any] = {"model": model.get("path"), "data": label, "scoring": settings.get("scoring")}
    setting |= {name: (settings.get("protocol") or {}).get(name) for name in CHOICES}
    setting |= {"budget": ", ".join(metrics.get("budgets") or ()) or None}
    names = (
        "method",
        "kept",
        "agg_layer",
        "temperature",
        "aggregation",
        "aggregator",
        "layout",
        "position",
        "stages",
        "seed",
        "code",
    )
    setting |= {name: settings.get(name) for name in names}
    setting |= {f"method.{name}": value for name, value in (settings.get("method_options") or {}).items()}
    setting |= {"identity": json.dumps(identity, sort_keys=True, default=str)}
    figures = {name: value for name, value in metrics.items() if name not in setting and name not in _PART_OF_SETTING}
    figures |= {"provenance": metrics.get("provenance") or {}, "skipped": metrics.get("skipped") or 0}
    return TableRow(setting, figures, [point], figures.pop("chance", None), point.error or "")


def _mark_superseded(rows: Sequence[TableRow]) -> None:
    """Marks points for which there is a newer one that differs in its code alone and answered as many questions.

    A newer point of fewer questions takes no place: results never shrink.
    """
    same: dict[str, list[TableRow]] = {}
    for row in sorted(rows, key=lambda row: row.points[0].finished):
        older = same.setdefault(_setting_without(row, "code"), [])
        for each in older:
            each.superseded |= row.asked >= each.asked and not row.error
        older.append(row)


def _setting_without(row: TableRow, *names: str) -> str:
    kept = {name: value for name, value in row.setting.items() if name not in (*names, "budget")}
    return json.dumps(kept, sort_keys=True, default=str)


def _with_seeds_joined(rows: Sequence[TableRow]) -> list[TableRow]:
    """Joins complete points that differ in their seed alone and answered equally many questions."""
    groups: dict[tuple, list[TableRow]] = {}
    for row in rows:
        alone = row.error or row.setting["seed"] is None or not row.metrics.get("n")
        same = (row.key,) if alone else (_setting_without(row, "seed"), row.superseded, row.asked)
        groups.setdefault(same, []).append(row)
    return [same[0] if len(same) == 1 else _joined(same) for same in groups.values()]


def _joined(rows: list[TableRow]) -> TableRow:
    rows = sorted(rows, key=lambda row: row.setting["seed"])
    budgets = dict.fromkeys(each for row in rows for each in row.budgets)
    setting = rows[0].setting | {"seed": None, "budget": ", ".join(budgets) or None}
    setting["seeds"] = ", ".join(str(row.setting["seed"]) for row in rows)
    timed = next((row for row in rows if row.metrics.get("prefill_ms")), rows[0])
    points = [row.points[0] for row in rows]
    metrics = timed.metrics | _joined_figures([row.metrics for row in rows], [point.answers for point in points])
    return TableRow(setting, metrics, points, rows[0].chance, superseded=rows[0].superseded)


def _joined_figures(metrics: Sequence[dict[str, Any]], answers: Sequence[StoredAnswers]) -> dict[str, Any]:
    """The figures of several seeds: accuracy over the questions that all answered, and the worst of the counts of ties.

    correct is None, as the mean over seeds need not be a whole number.
    """
    found = seeded_accuracy(shared_correct(answers))
    worst = {name: max((each[name] for each in metrics if each.get(name) is not None), default=None) for name in _WORST}
    accuracy = {"accuracy": found.accuracy, "accuracy_sd": found.standard_deviation}
    return worst | accuracy | {"n": found.n, "correct": None, "ci_low": found.ci_low, "ci_high": found.ci_high}


def shared_answers(rows: Sequence[TableRow]) -> list[np.ndarray]:
    """For each line a bool array [seeds, n] over the questions that all of them answered; [] if there are none."""
    answers = [row.answers for row in rows]
    correct = shared_correct([each for seeds in answers for each in seeds])
    ends = np.cumsum([len(seeds) for seeds in answers])
    return np.split(correct, ends[:-1]) if correct.size else []


def _order(row: TableRow) -> tuple:
    """Sort key: full, then by budget and kept, no_image last."""
    method, setting = row.setting["method"], row.setting
    end = {"full": 0, "no_image": 2}.get(method, 1)
    stages = [int(each.rpartition("@")[2]) for each in (setting["stages"] or "").split() if each[-1:].isdigit()]
    layers = stages or [setting["agg_layer"] or 0]
    rest = json.dumps([setting, row.asked], sort_keys=True, default=str)
    return row.pool, end, setting["budget"] or "", row.kept or 0, str(method), layers, row.superseded, rest


def _in(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values
