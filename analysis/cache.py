"""results.parquet and accuracy.png of a sweep's folder: caches of its points, written again whenever they need it."""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from tokensel.errors import TokenselError
from tokensel.evaluation.store import replace_file
from tokensel.evaluation.stored import FILES, is_point
from tokensel.evaluation.sweep.results import as_record
from tokensel.evaluation.sweep.rows import TableRow, folder_rows

NAME = "results.parquet"
FIGURE = "accuracy.png"


def as_frame(rows: Sequence[TableRow]) -> pd.DataFrame:
    """One row per line of the table, one column per setting and figure, ready for parquet."""
    frame = pd.DataFrame([as_record(row, rows) for row in rows])
    for column in frame.columns:
        # Options such as fps's start mix words and numbers, which parquet has no type for.
        if frame[column].map(type).nunique() > 1 and frame[column].map(lambda value: isinstance(value, str)).any():
            frame[column] = frame[column].map(lambda value: None if pd.isna(value) else str(value))
    return frame


def write_cache(rows: Sequence[TableRow], folder: Path) -> Path:
    """Writes results.parquet and accuracy.png, each atomically. Returns the parquet's path.

    Raises TokenselError if the folder cannot be written.
    """
    from analysis.figures import accuracy_over_kept  # slow to import

    frame = _write_parquet(rows, folder)
    figure = accuracy_over_kept(frame)
    _write(folder / FIGURE, lambda buffer: figure.savefig(buffer, format="png", dpi=150))
    return folder / NAME


def _write_parquet(rows: Sequence[TableRow], folder: Path) -> pd.DataFrame:
    frame = as_frame(rows)
    _write(folder / NAME, frame.to_parquet)
    return frame


def refresh_cache(folder: Path) -> bool:
    """Writes results.parquet again if it is missing, damaged or older than a point. Returns whether it did.

    Raises TokenselError for a damaged point, and if the folder cannot be written.
    """
    if is_current(folder):
        return False
    _write_parquet(folder_rows(folder), folder)
    return True


def refresh_caches(sources: Sequence[str]) -> None:
    """`refresh_cache` of those sources that are a sweep's folder; one that cannot be written stays as it is."""
    for folder in map(Path, sources):
        if folder.is_dir() and any(is_point(each) for each in folder.iterdir()):
            with suppress(TokenselError):
                refresh_cache(folder)


def is_current(folder: Path) -> bool:
    """Whether results.parquet can be read, lists the folder's points and is as new as each of them."""
    path = folder / NAME
    if not os.path.isfile(path):  # a pipe would be read for ever
        return False
    points = [each for each in folder.iterdir() if is_point(each)]
    try:
        listed = {key for keys in pd.read_parquet(path, columns=["keys"])["keys"] for key in keys.split()}
        written = path.stat().st_mtime_ns
    except (OSError, ValueError, KeyError):  # pyarrow's errors are among these
        return False
    finished = {each.name for each in points if (each / "metrics.json").exists() or (each / "error.json").exists()}
    files = [file for each in points for name in FILES if (file := each / name).exists()]
    return listed == finished and all(file.stat().st_mtime_ns <= written for file in files)


def _write(path: Path, write: Callable[[io.BytesIO], object]) -> None:
    buffer = io.BytesIO()
    write(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise TokenselError(
            f"{path}: cannot be written ({error.strerror}); what is stored of the points is kept"
        ) from error
