"""One evaluation: the rows that were asked the same questions in the same way, and their comparisons."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.grouping import variants
from analysis.paired import compare
from analysis.predictions import questions_of
from analysis.results import CONTROLS, SETTINGS, option_columns
from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore

REFERENCES = ("fastv", "random", "full")
COMPARED = ("difference", "diff_low", "diff_high", "p_value", "p_holm", "detectable", "n", "b", "c")


@dataclass
class Row:
    """One point of the table.

    point       its row of `load_results`, without what it does not have
    label       names it among all rows; series: the same without kept
    versus      by reference: what `compare` says, without what it does not know
    told        its provenance
    answers     its predictions, a row per question
    """

    point: dict[str, Any]
    label: str
    series: str
    versus: dict[str, dict[str, float]] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def method(self) -> str:
        return self.point.get("method") or "unknown"

    @property
    def kept(self) -> int | None:
        return self.point.get("kept")

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
    """One pool of results. varying: the settings in which rows of one method differ.

    questions   those that were asked, as they are in the data set today; empty where missing says why there are none
    """

    pool: str
    title: str
    rows: list[Row]
    varying: list[str]
    questions: list[Question]
    missing: str

    @property
    def complete(self) -> list[Row]:
        return [row for row in self.rows if row.is_complete]

    @property
    def visual_tokens(self) -> int | None:
        """How many visual tokens a picture has, if all points agree on that."""
        counts = {(row.told.get("protocol") or {}).get("visual_tokens") for row in self.complete}
        return next(iter(counts)) if len(counts) == 1 else None


def evaluations(
    results: pd.DataFrame, predictions: pd.DataFrame, titles: Mapping[str, str] | None = None
) -> list[Evaluation]:
    """One evaluation for each pool of the results, those with most complete points first.

    titles: of the pools, by pool.
    """
    versus = _comparisons(results, predictions)
    answers = {str(folder): rows for folder, rows in predictions.groupby("folder", observed=True)}
    made = []
    for pool, points in results.groupby("pool", sort=False):
        varying = _varying(points)
        told = zip(points.to_dict("records"), variants(points).fillna(""), strict=True)
        rows = [_row(record, where, versus, answers) for record, where in told]
        _number_twins(rows)
        questions, missing = _questions(points)
        title = (titles or {}).get(str(pool)) or str(pool)
        made.append(Evaluation(str(pool), title, rows, varying, questions, missing))
    return sorted(made, key=lambda evaluation: -len(evaluation.complete))


def known(record: Mapping[Hashable, Any]) -> dict[str, Any]:
    """The record without what is missing, in Python's own types."""
    plain = {str(name): value.item() if hasattr(value, "item") else value for name, value in record.items()}
    return {name: value for name, value in plain.items() if not _is_missing(value)}


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _row(
    record: Mapping[Hashable, Any], where: str, versus: Mapping[tuple[str, str], Any], answers: Mapping[str, Any]
) -> Row:
    """where: what tells the row from the other settings of its method."""
    point = known(record)
    method, kept = point.get("method", "unknown"), point.get("kept")
    setting = f" ({where})" if where and method not in CONTROLS else ""
    named = method if kept is None or method in CONTROLS else f"{method} {kept}"
    row = Row(point, named + setting, method + setting)
    row.versus = {name: found for name in REFERENCES if (found := versus.get((name, point["key"])))}
    if folder := point.get("folder"):
        row.told = (PointStore(folder).metrics() or {}).get("provenance") or {}
        row.answers = answers.get(folder, pd.DataFrame())
    return row


def _number_twins(rows: Sequence[Row]) -> None:
    """The same point in two sweeps is told apart by the sweep's name."""
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
    """By reference and key: what `compare` says."""
    found = {}
    for reference in REFERENCES:
        try:
            table = compare(results, predictions, reference)
        except TokenselError:  # no complete point of this method
            continue
        for record in table.dropna(subset="p_value").to_dict("records"):
            found[reference, record["key"]] = known({name: record[name] for name in COMPARED})
    return found


def _questions(points: pd.DataFrame) -> tuple[list[Question], str]:
    try:
        return questions_of(points), ""
    except (TokenselError, OSError, ImportError) as error:
        return [], f"Texts and pictures cannot be had: {error}"


def differing(rows: Iterable[Row], fact: str) -> dict[str, list[str]]:
    """The values of a fact of the rows' provenance ("device", "protocol.batch_size"), each with its rows' labels."""
    values: dict[str, list[str]] = {}
    for row in rows:
        value: Any = row.told
        for part in fact.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values.setdefault(_told(value), []).append(row.label)
    return values


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(item)}" for name, item in value.items() if item is not None)
    return str(value)
