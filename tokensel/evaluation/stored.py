"""Grid points read back from a folder of results: their settings, figures and answers, without the questions."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tokensel.data import stable_hash
from tokensel.errors import TokenselError, printable
from tokensel.evaluation.fields import check_stored
from tokensel.evaluation.store import PointStore, ids_digest, read_file

FILES = ("config.yaml", "metrics.json", "predictions.jsonl", "error.json")
_log = logging.getLogger(__name__)
_KEY = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class StoredPoint:
    """One point's folder.

    settings   of its config.yaml, or of its metrics where there is none; {} if there is neither
    metrics    None if the point has no figures yet
    error      why it failed; None if it did not
    """

    folder: Path
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    error: str | None

    @property
    def key(self) -> str:
        return self.folder.name

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The predictions that its figures were computed from; all that are stored if it has no figures.

        Raises TokenselError if predictions.jsonl is damaged or has other questions than the figures.
        """
        return figured(PointStore(self.folder).predictions(), self.metrics, self.folder)

    @cached_property
    def correct(self) -> dict[str, bool]:
        """Whether each answer of `records` is right, by question; skipped questions are left out."""
        return {record["id"]: bool(record["correct"]) for record in self.records if not record.get("skipped")}

    @property
    def asked(self) -> int:
        """The number of questions behind its figures, skipped ones included; 0 without figures."""
        return 0 if self.metrics is None else _asked(self.metrics)

    @property
    def finished(self) -> float:
        """When its figures were written, in seconds since 1970; 0 without figures."""
        try:
            return (self.folder / "metrics.json").stat().st_mtime
        except OSError:
            return 0.0


def is_point(folder: Path) -> bool:
    """Whether a folder is a point's: by its name, which alone would match an empty folder, and by its files."""
    return bool(_KEY.fullmatch(folder.name)) and any((folder / name).exists() for name in FILES)


def read_points(folder: Path) -> list[StoredPoint]:
    """All points in a sweep's folder, by key; none if there is no such folder.

    A point with a damaged file is left out, with a warning that names the file, so that the others are shown. Raises
    TokenselError if no point is left.
    """
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    points: list[StoredPoint] = []
    damaged: list[TokenselError] = []
    for each in filter(is_point, inside):
        try:
            point = read_point(each)
            _ = point.records  # are read, and kept
            points.append(point)
        except TokenselError as error:
            damaged.append(error)
    if damaged and not points:
        raise damaged[0]
    for problem in damaged:
        _log.warning("%s (this point is left out)", problem)
    return points


def read_point(folder: Path) -> StoredPoint:
    """One point. Raises TokenselError for a damaged file."""
    metrics = PointStore(folder).metrics()
    # Figures state the settings too, and reading JSON is much faster than reading YAML.
    settings = metrics if metrics and metrics.get("method") else _settings(folder)
    return StoredPoint(folder, settings, metrics, _error(folder))


def figured(
    records: Sequence[dict[str, Any]],
    metrics: Mapping[str, Any] | None,
    folder: Path,
    order: Mapping[str, tuple] | None = None,
) -> list[dict[str, Any]]:
    """The predictions that a point's figures were computed from.

    More are stored if a larger run was interrupted. A limit takes the first questions of a fixed order, so the figures'
    questions are the first stored, or the first in that order. order: sort keys by id, where the questions are known.

    Raises TokenselError if neither are.
    """
    digest = None if metrics is None else metrics.get("questions")
    if digest is None or ids_digest(record["id"] for record in records) == digest:
        return list(records)
    known = order or {}
    ordered = sorted(records, key=lambda record: known.get(record["id"], (stable_hash(record["id"]), "")))
    counts = dict.fromkeys([_asked(metrics or {}), *range(len(records) - 1, 0, -1)])
    for count in counts:
        for candidates in (records, ordered):
            if ids_digest(record["id"] for record in candidates[:count]) == digest:
                return list(candidates[:count])
    raise TokenselError(
        f"{folder}: its figures were computed from other questions than its predictions; run its sweep again"
    )


def _asked(metrics: Mapping[str, Any]) -> int:
    return (metrics.get("n") or 0) + (metrics.get("skipped") or 0)


def _settings(folder: Path) -> dict[str, Any]:
    if (data := read_file(folder / "config.yaml")) is None:
        return {}
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data.decode(), yaml.SafeLoader)):
            raise ValueError("aliases, which no sweep writes; a few lines of them can stand for gigabytes")
        settings = yaml.safe_load(data.decode())
        check_stored(settings)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise TokenselError(
            f"{folder / 'config.yaml'}: cannot be read; delete the point's folder and run its sweep again"
        ) from error
    return settings


def _error(folder: Path) -> str | None:
    try:
        if (data := read_file(folder / "error.json")) is None:
            return None
        stored = json.loads(data.decode())
    except (ValueError, RecursionError):  # TokenselError is among these
        return "error.json cannot be read"
    return printable(str(stored.get("error") if isinstance(stored, dict) else stored))
