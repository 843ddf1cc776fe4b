"""Places that cannot be written to are found before anything is loaded, and nothing is left there."""

import errno
import os
import tempfile

import pytest

from runners.terminal import places
from runners.terminal.logs import log_to, new_log
from runners.terminal.places import check_file, check_folder
from tokensel.errors import TokenselError


def test_a_check_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / "a" / "b", "output_dir")
    check_file(tmp_path / "a" / "page.html")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.html").write_text("old")
    check_file(tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"


@pytest.mark.parametrize("place", ["/dev/null", "/proc", "file", "file/below", "n" * 300, "/".join(["d" * 200] * 25)])
def test_a_place_that_is_no_folder_is_one_line(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenselError, match=r"output_dir=.*: cannot write to") as caught:
        check_folder(tmp_path / place / "sweep", "output_dir", place)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_found_by_writing(tmp_path, monkeypatch, number):
    def full(**options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(TokenselError, match=os.strerror(number)):
        check_folder(tmp_path / "sweep", "output_dir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/dev/null", ".", "n" * 250])
def test_a_device_or_folder_is_never_replaced_by_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenselError, match="must be a file, with a name of at most 240 bytes"):
        check_file(places.Path(name))


def test_a_log_on_a_full_disk_stays_silent(tmp_path, capsys):
    import logging

    path = new_log(tmp_path)
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    with log_to(path):
        logging.getLogger("tokensel").info("no room for this")
    assert capsys.readouterr().err == ""
