"""The lines of a report's table: grid points with their comparisons and predictions."""

from dataclasses import dataclass, field
from typing import Any

from analysis.columns import CONTROLS
from tokensel.evaluation.stored_answers import StoredAnswers, read_answers


@dataclass
class TableRow:
    """One line of the report's table: a grid point, or several that differ in their seed alone.

    point       its row of `load_results`, without missing values
    label       its name, unique within the evaluation
    series      the label without kept
    line        the series without the setting that the charts have as their x axis; "" for the series itself
    map         the label without agg_layer and temperature, which names the heat map that the point belongs to
    seeds       a row for each seed, if there are several; their predictions are in these
    versus      for each reference, its row of `compare`, without missing values
    provenance  where and how it was computed
    answers     its predictions
    """

    point: dict[str, Any]
    label: str
    series: str
    versus: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    answers: StoredAnswers = field(default_factory=lambda: read_answers([]))
    line: str = ""
    map: str = ""
    seeds: "list[TableRow]" = field(default_factory=list)

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
        return "earlier code" if self.point.get("superseded") else self.point["status"]

    @property
    def points(self) -> "list[TableRow]":
        """The rows that have predictions: one for each seed."""
        return self.seeds or [self]

    @property
    def is_complete(self) -> bool:
        return self.status == "complete" and self.point.get("accuracy") is not None

    @property
    def is_control(self) -> bool:
        return self.method in CONTROLS
