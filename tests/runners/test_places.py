"""Places that cannot be written to are found before anything is loaded, and nothing is left there."""

import errno
import os
import tempfile

import pytest
import torch
from helpers.checkpoints import save_question_file

from analysis import load_results
from runners import bench, infer, prune, report, show, sync, table, train_tiny
from runners.configuration.compose import read_command
from runners.sweep import FILES, run_sweep
from runners.terminal import places
from runners.terminal.arguments import read_arguments
from runners.terminal.logs import log_to, new_log
from runners.terminal.places import check_file, check_folder
from tokensel.data import load_questions
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.reading import read_settings
from tokensel.models.loading import checkpoint_folder
from tokensel.training.optimization import Checkpoint


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


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_sweep_writes_a_file_ends_it_before_anything_is_loaded(tmp_path, name):
    (tmp_path / "sweep" / name).mkdir(parents=True)
    job = {"method": {"name": "fps"}, "model": {"path": "tiny"}, "data": {"name": "diagrams"}, "logger": {}}
    with pytest.raises(TokenselError, match=rf"^output_dir=\S+: \S+/{name} is no file; move it away"):
        run_sweep([job | {"output_dir": str(tmp_path)}], progress=None)


def test_a_log_on_a_full_disk_stays_silent(tmp_path, capsys):
    import logging

    path = new_log(tmp_path)
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    with log_to(path):
        logging.getLogger("tokensel").info("no room for this")
    assert capsys.readouterr().err == ""


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1" / "sweep").mkdir(parents=True)
    for folder in ("lr=0.1/sweep", str(tmp_path / "lr=0.1")):
        assert read_arguments([folder, "output=page.html"], ["output"]) == ([folder], {"output": "page.html"})
    with pytest.raises(TokenselError, match=r"^lr: unknown key; keys are output"):
        read_arguments(["lr=0.2/sweep"], ["output"])


def test_a_tilde_that_the_shell_left_alone_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    job = {"method": {"name": "fps"}, "model": {"path": "tiny"}, "data": {"name": "diagrams"}, "logger": {}}
    assert read_settings(job | {"output_dir": "~/out"}).output_dir == str(tmp_path / "out")
    save_question_file(tmp_path, 2)
    assert len(load_questions("question_file", path="~/questions.json", image_folder="~/images")) == 2


@pytest.mark.parametrize("name", ["n" * 300, "~nobody_of_this_name/x"])
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tries = [
        lambda: checkpoint_folder(name),
        lambda: load_questions("question_file", path=name),
        lambda: load_questions("pope", path=name),
        lambda: load_results(name),
        lambda: load_results(f"{name}/*.parquet"),
        lambda: read_command(["--config-dir", name]),
    ]
    for attempt in tries:
        with pytest.raises(TokenselError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert report.main([name]) == prune.main([name, "--where", "method=fps"]) == 2


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (bench, "output=PLACE/bench"),
        (infer, "--question-file none.json --output-file PLACE/answers.json"),
        (report, ". output=PLACE/page.html"),
        (show, "data=diagrams output=PLACE/survivors.png"),
        (table, ". output=PLACE/table.md"),
        (train_tiny, "--out PLACE/tiny"),
        (train_tiny, "--out tiny --work PLACE/work"),
    ],
)
@pytest.mark.parametrize("place", ["file", "/dev/null", "/proc"])
def test_a_commands_output_place_is_checked_before_anything_is_loaded(
    tmp_path, monkeypatch, capsys, command, arguments, place
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "importing", lambda: pytest.fail("loads before it looks at the place"))
    assert command.main(arguments.replace("PLACE", place).split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert f": cannot write to {place}" in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_training_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    state = Checkpoint(tmp_path / "state.pt", torch.nn.Linear(1, 1), [])
    state.save(1)

    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:1]. unexpected pos 64 vs 0\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TokenselError, match=r"state.pt: cannot be written \(.* vs 0\); the training continues"):
        state.save(2)
    assert state.load() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_push_from_a_folder_that_cannot_be_written_is_refused_before_wandb_starts(tmp_path, monkeypatch, capsys):
    def closed(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tempfile, "TemporaryFile", closed)
    monkeypatch.setattr(sync, "importing", lambda: pytest.fail("loads before it looks at the place"))
    assert sync.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: folder={tmp_path}: cannot write to {tmp_path} (Read-only file")
