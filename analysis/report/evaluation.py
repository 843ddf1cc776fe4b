"""Groups results into evaluations: grid points that answered the same questions in the same way."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.columns import CONTROLS, SETTINGS, option_columns
from analysis.grouping import variants
from analysis.paired import compare
from analysis.predictions import questions_of
from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore

REFERENCES = ("fastv", "random", "full")
COMPARED = ("difference", "diff_low", "diff_high", "p_value", "p_holm", "detectable", "n", "b", "c")


@dataclass
class TableRow:
    """One line of the report's table: a grid point, its comparisons and its predictions.

    point       its row of `load_results`, without missing values
    label       its name, unique within the evaluation
    series      the label without kept
    versus      for each reference, its row of `compare`, without missing values
    provenance  where and how it was computed
    answers     its predictions, one row per question
    """

    point: dict[str, Any]
    label: str
    series: str
    versus: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def method(self) -> str:
        return self.point.get("method") or "unknown"

    @property
    def kept(self) -> int | None:
        return self.point.get("kept")

    @property
    def at(self) -> tuple[str, float]:
        """The budget or else the kept at which this row is compared, in words and as a number."""
        if budget := self.point.get("budget"):
            return budget, float(budget.split(", ")[0].rpartition(":")[2])
        return f"{self.kept} kept", self.kept or 0

    @property
    def status(self) -> str:
        return self.point["status"]

    @property
    def is_complete(self) -> bool:
        return self.status == "complete" and self.point.get("accuracy") is not None

    @property
    def is_control(self) -> bool:
        return self.method in CONTROLS


@dataclass
class Evaluation:
    """The results of one pool.

    pool        its identifier, from `load_results`
    title       its short name
    varying     the settings in which rows of one method differ
    questions   of the data set, with texts and pictures; empty if they cannot be loaded
    missing     why the questions cannot be loaded; "" if they can
    """

    pool: str
    title: str
    rows: list[TableRow]
    varying: list[str]
    questions: list[Question]
    missing: str

    @property
    def complete(self) -> list[TableRow]:
        return [row for row in self.rows if row.is_complete]

    @property
    def visual_tokens(self) -> int | None:
        """The number of visual tokens of a picture; None if it is unknown or differs between points."""
        counts = {(row.provenance.get("protocol") or {}).get("visual_tokens") for row in self.complete}
        return next(iter(counts)) if len(counts) == 1 else None


def evaluations(
    results: pd.DataFrame, predictions: pd.DataFrame, titles: Mapping[str, str] | None = None
) -> list[Evaluation]:
    """Makes one evaluation for each pool of the results. Those with most complete points come first.

    titles: short name of each pool.
    """
    versus = _comparisons(results, predictions)
    answers = {str(folder): rows for folder, rows in predictions.groupby("folder", observed=True)}
    made = []
    for pool, points in results.groupby("pool", sort=False):
        varying = _varying(points)
        described = zip(points.to_dict("records"), variants(points).fillna(""), strict=True)
        rows = [_row(record, setting, versus, answers) for record, setting in described]
        _make_labels_unique(rows)
        questions, missing = _questions(points)
        title = (titles or {}).get(str(pool)) or str(pool)
        made.append(Evaluation(str(pool), title, rows, varying, questions, missing))
    return sorted(made, key=lambda evaluation: -len(evaluation.complete))


def known(record: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Returns the record without missing values, and with Python's own types."""
    plain = {str(name): value.item() if hasattr(value, "item") else value for name, value in record.items()}
    return {name: value for name, value in plain.items() if not _is_missing(value)}


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _row(
    record: Mapping[Hashable, Any], setting: str, versus: Mapping[tuple[str, str], Any], answers: Mapping[str, Any]
) -> TableRow:
    """setting: how the point differs from other points of its method, from `variants`."""
    point = known(record)
    method, kept = point.get("method", "unknown"), point.get("kept")
    suffix = f" ({setting})" if setting and method not in CONTROLS else ""
    name = method if kept is None or method in CONTROLS else f"{method} {kept}"
    row = TableRow(point, name + suffix, method + suffix)
    row.versus = {name: found for name in REFERENCES if (found := versus.get((name, point["key"])))}
    if folder := point.get("folder"):
        row.provenance = (PointStore(folder).metrics() or {}).get("provenance") or {}
        row.answers = answers.get(folder, pd.DataFrame())
    return row


def _make_labels_unique(rows: Sequence[TableRow]) -> None:
    """Adds the sweep's name to labels that occur more than once: several sweeps can contain the same point."""
    labels = [row.label for row in rows]
    for row in rows:
        if labels.count(row.label) > 1:
            row.label += f" [{row.point.get('sweep', '')}]"


def _varying(points: pd.DataFrame) -> list[str]:
    """The settings in which two points of one method differ."""
    names = [*SETTINGS, *option_columns(points)]
    groups = [same for _, same in points.groupby("method", dropna=False)]
    return [name for name in names if any(same[name].nunique(dropna=False) > 1 for same in groups)]


def _comparisons(results: pd.DataFrame, predictions: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """The results of `compare` by (reference, key)."""
    found = {}
    for reference in REFERENCES:
        try:
            table = compare(results, predictions, reference)
        except TokenselError:  # no complete point has this method
            continue
        for record in table.dropna(subset="p_value").to_dict("records"):
            found[reference, record["key"]] = known({name: record[name] for name in COMPARED})
    return found


def _questions(points: pd.DataFrame) -> tuple[list[Question], str]:
    try:
        return questions_of(points), ""
    except (TokenselError, OSError, ImportError) as error:
        return [], f"Texts and pictures cannot be loaded: {error}"


def labels_by_value(rows: Iterable[TableRow], fact: str) -> dict[str, list[str]]:
    """Returns the labels of the rows for each value of a fact in their provenance, such as "protocol.batch_size"."""
    values: dict[str, list[str]] = {}
    for row in rows:
        value: Any = row.provenance
        for part in fact.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values.setdefault(_as_text(value), []).append(row.label)
    return values


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in value.items() if item is not None)
    return str(value)
