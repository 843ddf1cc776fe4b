"""Grid points read back from a folder of results: their settings, figures and answers, without the questions."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tokensel.errors import TokenselError, printable
from tokensel.evaluation.fields import check_stored
from tokensel.evaluation.store import PointStore, read_file
from tokensel.evaluation.stored_answers import StoredAnswers, asked, figured_places, read_answers

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
    def answers(self) -> StoredAnswers:
        """The predictions that its figures were computed from, in columns; all that are stored if it has no figures.

        Raises TokenselError if predictions.jsonl is damaged or has other questions than the figures.
        """
        stored = read_answers(PointStore(self.folder).each_prediction())
        return stored.take(figured_places(stored.number, stored.ids, self.metrics, self.folder))

    @property
    def asked(self) -> int:
        """The number of questions behind its figures, skipped ones included; 0 without figures."""
        return 0 if self.metrics is None else asked(self.metrics)

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
            _ = point.answers  # are read, and kept
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
