"""One grid point's results on disk, safe against a kill at any moment: append, resume, load.

    <folder>/config.yaml         the settings
    <folder>/predictions.jsonl   one line per question
    <folder>/metrics.json        last, and whole from its first moment
    <folder>/.lock               held by the one process that writes

A reader takes no lock and changes nothing; the first call that may write takes the lock and keeps it until
`close` or the end of the process, however it ends.
"""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import yaml

from tokensel.errors import TokenselError


def ids_digest(ids: Iterable[str]) -> str:
    """A digest of question ids in any order: tells whether stored figures are those of the wanted questions."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def point_key(settings: dict[str, Any]) -> str:
    """12 hex digits that stand for settings: those of everything that determines the predictions.

    The order of the keys does not matter, nor whether 1 is written 1 or 1.0, nor a list as a tuple.
    """
    canonical = json.dumps(_plain(settings, whole_floats=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class PointStore:
    """The folder of one grid point. Usable as a context manager, which closes it.

    Writing raises TokenselError, naming the folder, if another process writes there or nobody can.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._predictions = self.folder / "predictions.jsonl"
        self._lock: int | None = None
        self._ids: set[str] = set()
        self._size = -1  # of predictions.jsonl when _ids was read; -1: never

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process write. Calling it again, or never, is fine."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_config(self, settings: dict[str, Any]) -> None:
        """Writes config.yaml: exactly the settings given, whole or not at all."""
        self._replace("config.yaml", yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True))

    def done_ids(self) -> set[str]:
        """The ids of the questions that need no more computing.

        Cuts off a last line that a kill left half written, so it takes the lock. Raises TokenselError, which
        names the line, if one before the last is not a prediction: no kill does that.
        """
        self._acquire()
        self._refresh()
        return set(self._ids)

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds predictions, each with its question's "id"; they are on the disk when this returns.

        All lines go in one write. A row whose id is there already is left out: the first answer stands. One
        that does not fit on the disk is undone and raises OSError.
        """
        self._acquire()
        self._refresh()
        new: dict[str, str] = {}
        for row in rows:
            if row["id"] not in self._ids and row["id"] not in new:
                new[row["id"]] = json.dumps(_plain(row), ensure_ascii=False) + "\n"
        if not new:
            return
        data = "".join(new.values()).encode()
        file = os.open(self._predictions, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            try:
                if os.write(file, data) < len(data):
                    raise OSError(f"{self._predictions}: no room for {len(data)} bytes")
                os.fsync(file)
            except OSError:
                os.ftruncate(file, self._size)
                raise
        finally:
            os.close(file)
        if self._size == 0:
            self._sync_folder()
        self._size += len(data)
        self._ids.update(new)

    def predictions(self) -> list[dict[str, Any]]:
        """All predictions, in the order they were added. A half-written last line is ignored."""
        return self._read()[0]

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json, the sign that the point is complete: whole or not at all."""
        self._replace("metrics.json", json.dumps(_plain(metrics), indent=2, ensure_ascii=False) + "\n")

    def metrics(self) -> dict[str, Any] | None:
        """The metrics, or None if the point is not complete."""
        try:
            return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise TokenselError(f"{self.folder / 'metrics.json'}: is not JSON; delete it, it is remade") from error

    def _acquire(self) -> None:
        if self._lock is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TokenselError(f"{self.folder}: results cannot be written there ({error.strerror})") from error
        try:
            # lockf, not flock: forked data-loading workers must not keep the lock of a killed parent alive.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise TokenselError(f"{self.folder}: another process writes there; wait for it or stop it") from error
        self._lock = lock

    def _refresh(self) -> None:
        """Brings _ids and _size up to the file, which another store of this process may have changed."""
        if self._predictions.exists() and self._predictions.stat().st_size == self._size:
            return
        rows, whole = self._read()
        if self._predictions.exists() and self._predictions.stat().st_size > whole:
            os.truncate(self._predictions, whole)
        self._ids = {row["id"] for row in rows}
        self._size = whole

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """The predictions, and how many bytes their whole lines take."""
        try:
            data = self._predictions.read_bytes()
        except FileNotFoundError:
            return [], 0
        lines = data.split(b"\n")[:-1]
        rows: dict[str, dict[str, Any]] = {}
        whole = 0
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                rows.setdefault(row["id"], row)
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # what a crash of the machine can leave: the length without the contents
                    break
                raise TokenselError(
                    f"{self._predictions}: line {number} is not a prediction; delete the line, it is remade"
                ) from error
            whole += len(line) + 1
        return list(rows.values()), whole

    def _replace(self, name: str, text: str) -> None:
        self._acquire()
        partial = self.folder / f".{name}.partial"
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / name)
        self._sync_folder()

    def _sync_folder(self) -> None:
        """A new name survives a crash of the machine only once its folder is on the disk too."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _plain(value: Any, whole_floats: bool = True) -> Any:
    """The value in JSON's types. NaN and infinity, which it lacks, are None. whole_floats=False: 1.0 is 1."""
    if isinstance(value, dict):
        return {str(key): _plain(item, whole_floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, whole_floats) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item, whole_floats) for item in value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and not whole_floats else value
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist(), whole_floats)
    return str(value)
