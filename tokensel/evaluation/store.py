"""One grid point's results on disk: append, resume and load, safe against a kill at any moment.

    <folder>/config.yaml         the settings
    <folder>/predictions.jsonl   one line per question
    <folder>/metrics.json        written last and atomically
    <folder>/.lock               held by the one process that writes

Reading takes no lock and changes nothing. The first call that may write takes the lock and keeps it until `close` or
the end of the process, however the process ends.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError

from tokensel.errors import TokenselError
from tokensel.evaluation.fields import check_stored
from tokensel.evaluation.locks import take_lock
from tokensel.evaluation.prediction_file import PredictionFile, open_stored
from tokensel.evaluation.question_ids import IdSet


def point_key(settings: dict[str, Any]) -> str:
    """12 hex digits that identify settings, which must hold everything that determines the predictions.

    The order of the keys does not matter; 1 equals 1.0, and a list equals a tuple.
    """
    canonical = json.dumps(_plain(settings, keep_floats=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def as_line(record: dict[str, Any]) -> str:
    """A prediction as it stands in predictions.jsonl, with the end of its line."""
    try:
        return _encode(record) + "\n"
    except (TypeError, ValueError):  # tensors, sets and NaN are rare, and looking for them takes most of the time
        return _encode(_plain(record)) + "\n"


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class PointStore:
    """The folder of one grid point; as a context manager it closes itself.

    Writing raises TokenselError, naming the folder, if another process holds the lock or the folder is not writable.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._predictions = self.folder / "predictions.jsonl"
        self._lock: int | None = None
        self._ids = IdSet()
        self._size = -1  # of predictions.jsonl when _ids was last read; -1: not read yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock, so that another process can write. May be called any number of times."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def lock(self) -> None:
        """Takes the lock, as every method that writes does, and keeps it until `close`."""
        self._acquire()

    def write_config(self, settings: dict[str, Any]) -> None:
        """Writes exactly these settings to config.yaml, atomically."""
        self._replace("config.yaml", yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True))

    def done_ids(self) -> set[str]:
        """The ids of the questions that have a stored prediction.

        Takes the lock and removes an incomplete last line, which a kill can leave. Raises TokenselError for an invalid
        line before the last, which no kill leaves.
        """
        self._acquire()
        self._refresh()
        return set(self._ids)

    def stored_ids(self) -> Set[str]:
        """As `done_ids`, but takes no lock, changes nothing and makes no copy: later changes show in it."""
        self._read_ids()
        return self._ids

    def append(self, predictions: Iterable[dict[str, Any]]) -> None:
        """Appends predictions, each with its question's "id", in one write; they are on disk when this returns.

        A prediction whose id is already stored is dropped: the first one is kept. Raises TokenselError if the write
        fails, and then removes what was written of it.
        """
        lines: dict[str, str] = {}
        for record in predictions:
            lines.setdefault(record["id"], as_line(record))
        self.append_lines(lines)

    def append_lines(self, lines: Mapping[str, str]) -> None:
        """`append` of predictions that are lines already, see `as_line`. lines: by question id."""
        self._acquire()
        self._refresh()
        new = {id: line for id, line in lines.items() if id not in self._ids}
        if not new:
            return
        data = "".join(new.values()).encode()
        with _naming(self._predictions):
            self._add(data)
        self._size += len(data)
        for id in new:
            self._ids.add(id)

    def _add(self, data: bytes) -> None:
        file = os.open(self._predictions, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            try:
                if os.write(file, data) < len(data):
                    raise OSError(errno.ENOSPC, f"no room for {len(data)} bytes")
                os.fsync(file)
            except OSError:
                os.ftruncate(file, self._size)
                raise
        finally:
            os.close(file)
        if self._size == 0:
            self._sync_folder()

    def predictions(self) -> list[dict[str, Any]]:
        """All predictions in the order they were appended; an incomplete last line is ignored."""
        return list(self.each_prediction())

    def each_prediction(self) -> Iterator[dict[str, Any]]:
        """`predictions`, read while they are used: memory does not grow with their number."""
        seen = IdSet()
        return (record for record in PredictionFile(self._predictions) if seen.add(record["id"]))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json atomically; its presence marks the point as complete."""
        self._replace("metrics.json", json.dumps(_plain(metrics), indent=2, ensure_ascii=False) + "\n")

    def metrics(self) -> dict[str, Any] | None:
        """The metrics, or None if the point is not complete."""
        path = self.folder / "metrics.json"
        if (data := read_file(path)) is None:
            return None
        try:
            metrics = json.loads(data.decode())
            check_stored(metrics)
        except ValidationError as error:
            loc = error.errors()[0]["loc"]
            wrong = f"{loc[0]} has another type, or is too large" if loc else "is no JSON object"
            raise TokenselError(f"{path}: {wrong}; delete the file, and it is computed again") from error
        except (ValueError, RecursionError) as error:
            raise TokenselError(f"{path}: is not JSON; delete it, and it is computed again") from error
        return metrics

    def clear(self) -> None:
        """Deletes everything that is stored of this point, figures first; keeps the folder and its lock."""
        self._acquire()
        others = [path for path in self.folder.iterdir() if path.is_file() and path.name != ".lock"]
        for path in (self.folder / "metrics.json", *others):
            path.unlink(missing_ok=True)
        self._sync_folder()
        self._ids, self._size = IdSet(), -1

    def _acquire(self) -> None:
        if self._lock is None:
            self._lock = take_lock(self.folder)

    def _refresh(self) -> None:
        """Updates _ids and _size from the file, which another store of this process may have changed."""
        self._read_ids()
        if self._stored_bytes() > self._size:
            os.truncate(self._predictions, self._size)

    def _read_ids(self) -> None:
        if self._stored_bytes() == self._size:
            return
        file = PredictionFile(self._predictions)
        self._ids = IdSet(record["id"] for record in file)
        self._size = file.complete

    def _stored_bytes(self) -> int:
        return self._predictions.stat().st_size if self._predictions.exists() else 0

    def _replace(self, name: str, text: str) -> None:
        self._acquire()
        with _naming(self.folder / name):
            replace_file(self.folder / name, text.encode())

    def _sync_folder(self) -> None:
        _sync(self.folder)


def read_file(path: Path) -> bytes | None:
    """The contents of a stored file; None if there is none. Raises TokenselError as `open_stored` does."""
    with open_stored(path) as file:
        return None if file is None else file.read()


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file atomically: it has the old contents or the new ones, whenever the machine stops.

    Raises OSError, and leaves what was there, if the data cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    _sync(path.parent)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Inside the block, a file that cannot be written raises TokenselError, which names it."""
    try:
        yield
    except OSError as error:
        raise TokenselError(
            f"{path}: cannot be written ({error.strerror}); what is stored is kept, and the same command goes on from "
            "it"
        ) from error


def _sync(path: Path) -> None:
    """Flushes a folder: a new file name survives a crash of the machine only after this."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _plain(value: Any, keep_floats: bool = True) -> Any:
    """The value in JSON's types; NaN and infinity become None. keep_floats: whether 1.0 stays a float or becomes 1."""
    if isinstance(value, dict):
        return {str(key): _plain(item, keep_floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, keep_floats) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item, keep_floats) for item in value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and not keep_floats else value
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist(), keep_floats)
    return str(value)
