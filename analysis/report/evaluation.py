"""Groups results into evaluations: grid points that answered the same questions in the same way."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.columns import CONTROLS, SETTINGS, option_columns
from analysis.grouping import variants
from analysis.needs import by_need
from analysis.paired import compare
from analysis.predictions import questions_of
from analysis.report.rows import TableRow
from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.stored import StoredPoint
from tokensel.evaluation.stored_answers import StoredAnswers, read_answers
from tokensel.evaluation.sweep.ranking import sentences
from tokensel.evaluation.sweep.rows import table_rows

REFERENCES = ("fastv", "random", "downsample", "full")
COMPARED = ("difference", "diff_low", "diff_high", "p_value", "p_holm", "detectable", "n", "b", "c", "agreement")


@dataclass
class Evaluation:
    """The results of one pool.

    pool        its identifier, from `load_results`
    title       its short name
    varying     the settings in which rows of one method differ
    questions   of the data set, with texts and pictures; empty if they cannot be loaded
    missing     why the questions cannot be loaded; "" if they can
    ranking     which points are best at equal kept or at equal cost, and which tie: one sentence for each
    needs       the rows of `by_need`, without missing values
    along       the setting on the x axis of the charts: kept, or else agg_layer or temperature if several were run
    """

    pool: str
    title: str
    rows: list[TableRow]
    varying: list[str]
    questions: list[Question]
    missing: str
    along: str = "kept"
    ranking: list[str] = field(default_factory=list)
    needs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def points(self) -> list[TableRow]:
        """The rows that have predictions: one for each seed."""
        return [point for row in self.rows for point in row.points]

    @property
    def complete(self) -> list[TableRow]:
        return [row for row in self.rows if row.is_complete]

    @property
    def visual_tokens(self) -> int | None:
        """The number of visual tokens of a picture or video; None if it is unknown or differs between points."""
        return self._of_protocol("visual_tokens")

    @property
    def video_grid(self) -> list[int] | None:
        """Frames, rows and columns of a video's visual tokens; None for pictures, and if it differs between points."""
        return self._of_protocol("video_grid")

    def _of_protocol(self, name: str) -> Any:
        values = [(row.provenance.get("protocol") or {}).get(name) for row in self.complete]
        return values[0] if values and all(value == values[0] for value in values) else None


def evaluations(
    results: pd.DataFrame, stored: Mapping[str, StoredPoint], titles: Mapping[str, str] | None = None
) -> list[Evaluation]:
    """Makes one evaluation for each pool of the results. Those with most complete points come first.

    stored: the points by key, from `load_with_points`. titles: short name of each pool.
    """
    answers = {key: point.answers for key, point in stored.items()}
    versus = _comparisons(results, answers)
    needs = by_need(results, answers)
    made = []
    for pool, points in results.groupby("pool", sort=False):
        current = points[~points["superseded"].fillna(False)]
        varying = _varying(current)
        along = _along(current, varying)
        # A seed that only one point of a method has, such as FastV's at layer 0, tells no two points apart.
        seedless = () if "seed" in varying else ("seed",)
        ignored = (seedless, (along, *seedless), ("agg_layer", "temperature", *seedless))
        texts = [variants(current, ignore) for ignore in ignored]
        frame = pd.concat(texts, axis=1).reindex(points.index).fillna("").to_numpy().tolist()
        described = zip(points.to_dict("records"), frame, strict=True)
        rows = [_row(record, settings, versus, answers) for record, settings in described]
        _make_labels_unique(rows)
        questions, missing = _questions(points)
        title = (titles or {}).get(str(pool)) or str(pool)
        ranked = _ranking(points, stored)
        kinds = [known(record) for record in needs[needs["pool"] == pool].to_dict("records")]
        made.append(Evaluation(str(pool), title, rows, varying, questions, missing, along, ranked, kinds))
    return sorted(made, key=lambda evaluation: -len(evaluation.complete))


def known(record: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Returns the record without missing values, and with Python's own types."""
    plain = {str(name): value.item() if hasattr(value, "item") else value for name, value in record.items()}
    return {name: value for name, value in plain.items() if not _is_missing(value)}


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _row(
    record: Mapping[Hashable, Any],
    settings: Sequence[str],
    versus: Mapping[tuple[str, str], Any],
    answers: Mapping[str, StoredAnswers],
) -> TableRow:
    """settings: how the point differs from others of its method, from `variants`, for its series, line and map."""
    point = known(record)
    method, kept = point.get("method", "unknown"), point.get("kept")
    series, line, heat_map = (f" ({text})" if text and method not in CONTROLS else "" for text in settings)
    name = method if kept is None or method in CONTROLS else f"{method} {kept}"
    if point.get("superseded"):
        series += f" (earlier code {str(point.get('code'))[:6]})"
    row = TableRow(point, name + series, method + series, line=method + line, map=name + heat_map)
    row.versus = {name: found for name in REFERENCES if (found := versus.get((name, point["key"])))}
    if folder := point.get("folder"):
        row.provenance = (PointStore(folder).metrics() or {}).get("provenance") or {}
    row.answers = answers.get(point["key"], row.answers)
    keys, seeds = (point.get("keys") or "").split(), str(point.get("seeds") or "").split(", ")
    if len(keys) > 1:
        row.seeds = [_of_seed(row, key, seed, answers) for key, seed in zip(keys, seeds, strict=True)]
    return row


def _of_seed(row: TableRow, key: str, seed: str, answers: Mapping[str, StoredAnswers]) -> TableRow:
    own = answers.get(key, read_answers([]))
    point = {"key": key, "status": row.status, "method": row.method, "kept": row.kept, "accuracy": own.accuracy}
    return TableRow(point, f"{row.label} (seed {seed})", row.series, answers=own, line=row.line, map=row.map)


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
    return [name for name in names if any(same[name].nunique(dropna=name == "seed") > 1 for same in groups)]


def _ranking(points: pd.DataFrame, stored: Mapping[str, StoredPoint]) -> list[str]:
    keys = {key for listed in points["keys"].dropna() for key in listed.split()}
    return sentences(table_rows([point for key, point in stored.items() if key in keys and len(point.answers)]))


def _along(points: pd.DataFrame, varying: Sequence[str]) -> str:
    reduced = points[~points["method"].isin(CONTROLS)]
    others = [name for name in ("agg_layer", "temperature") if name in varying]
    return others[0] if others and reduced["kept"].nunique() < 2 else "kept"


def _comparisons(
    results: pd.DataFrame, answers: Mapping[str, StoredAnswers]
) -> dict[tuple[str, str], dict[str, float]]:
    """The results of `compare` by (reference, key)."""
    found = {}
    for reference in REFERENCES:
        try:
            table = compare(results, answers, reference)
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
