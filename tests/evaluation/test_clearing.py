"""Several points are deleted together or not at all, and what cannot be deleted is named in one line."""

import os
import shutil

import pytest

from tokensel.errors import TokenselError
from tokensel.evaluation.clearing import clear_points, remove_points
from tokensel.evaluation.store import PointStore


@pytest.fixture
def stores(tmp_path):
    stores = [PointStore(tmp_path / name) for name in ("a", "b", "c")]
    for store in stores:
        store.append([{"id": "q0", "prediction": 1, "answer": 1, "correct": True}])
        store.write_metrics({"n": 1})
        store.close()
    yield stores
    for store in stores:
        store.close()


def files(stores):
    return [sorted(path.name for path in store.folder.iterdir()) for store in stores if store.folder.exists()]


def test_cleared_points_keep_their_folders_and_locks(stores):
    clear_points(stores[:2])
    assert files(stores) == [[".lock"], [".lock"], [".lock", "metrics.json", "predictions.jsonl"]]


def test_removed_points_are_gone(stores):
    remove_points(stores[:2])
    assert [store.folder.exists() for store in stores] == [False, False, True]


@pytest.mark.parametrize("delete", [clear_points, remove_points])
def test_nothing_is_deleted_if_one_folder_is_not_writable(stores, monkeypatch, delete):
    before, closed = files(stores), stores[1].folder
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path != closed)  # root may write to any folder
    with pytest.raises(TokenselError, match=f"^{closed}: is not writable, so nothing was deleted"):
        delete(stores)
    assert files(stores) == before


def test_the_permissions_of_a_folder_count(stores):
    before, closed = files(stores), stores[1].folder
    closed.chmod(0o555)
    if os.access(closed, os.W_OK):
        pytest.skip("root may write to any folder")
    with pytest.raises(TokenselError, match=f"^{closed}: is not writable, so nothing was deleted"):
        clear_points(stores)
    assert files(stores) == before


def test_points_are_not_removed_from_a_folder_that_is_not_writable(stores, tmp_path, monkeypatch):
    before = files(stores)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path != tmp_path)
    with pytest.raises(TokenselError, match=f"^{tmp_path}: is not writable"):
        remove_points(stores)
    assert files(stores) == before


def test_what_cannot_be_deleted_is_named(stores, monkeypatch):
    def rmtree(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(TokenselError, match=f"^{stores[0].folder}: cannot be deleted \\(Operation not permitted\\)"):
        remove_points(stores)
    assert PointStore(stores[1].folder).metrics() == {"n": 1}
