"""Deletes what is stored of several grid points: of all of them, or of none if one of them is not writable."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore

_EFFECTIVE = os.access in os.supports_effective_ids


def clear_points(stores: Sequence[PointStore]) -> None:
    """Deletes everything that is stored of these points, and keeps their folders and locks.

    Raises TokenselError, naming the folder, if another process is writing to one or it is not writable; nothing is
    deleted then.
    """
    _lock(stores, [store.folder for store in stores])
    for store in stores:
        with deleting(store.folder):
            store.clear()


def remove_points(stores: Sequence[PointStore]) -> None:
    """Deletes the folders of these points, and releases their locks. Raises TokenselError as `clear_points` does."""
    try:
        _lock(stores, [folder for store in stores for folder in (store.folder.parent, store.folder)])
        for store in stores:
            with deleting(store.folder):
                store.clear()
                shutil.rmtree(store.folder)
    finally:
        for store in stores:
            store.close()


def _lock(stores: Iterable[PointStore], folders: Iterable[Path]) -> None:
    """Locks the points. Raises TokenselError if that fails, and for a folder that is not writable."""
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
            raise TokenselError(f"{folder}: is not writable, so nothing was deleted; make it writable")
    for store in stores:
        store.lock()


@contextmanager
def deleting(path: Path) -> Iterator[None]:
    """Inside the block, a file that cannot be deleted raises TokenselError, which names `path`."""
    try:
        yield
    except OSError as error:
        raise TokenselError(f"{path}: cannot be deleted ({error.strerror}); make it writable") from error
