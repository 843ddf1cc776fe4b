"""The command `verify`: what it prints and writes, its exit status, and how it reads its model."""

import json
from pathlib import Path

import pytest
from helpers.families import QUESTIONS, load_family, save_family

from runners import verify as command
from runners.verification import output
from tokensel.errors import TokenselError
from tokensel.evaluation.verify import verify


@pytest.fixture
def short(monkeypatch):
    """Two checks and short questions, of a model that is loaded already."""
    monkeypatch.setattr(output, "load_model", lambda **given: load_family("llava"))

    def quick(loaded, kept, progress):
        return verify(loaded, kept, checks=("no-op", "kept"), questions=QUESTIONS, answered=1, progress=progress)

    monkeypatch.setattr(output, "verify", quick)


def test_a_line_for_each_check_then_the_answers_and_a_file_to_attach(short, tmp_path, capsys):
    assert command.main([f"output_dir={tmp_path}", "kept=5"]) == 0
    *lines, record = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": llava, 4 layers, float32, sdpa")
    assert lines[1].endswith("; 16 visual tokens, 5 kept")
    assert lines[3].split() == ["ok", "no-op", "stock", "logits", "bit", "for", "bit,", "nothing", "removed", "0"]
    assert lines[4].split() == ["ok", "kept", "5", "of", "16", "tokens", "remain,", "in", "caches", "too"]
    assert lines[6].split() == ["question", "right", "all", "tokens", "5", "kept"]
    assert lines[-2:] == ["All 2 checks passed.", f"Figures: {tmp_path / 'verify.json'}"]
    assert max(len(line) for line in lines[:-1]) <= 80
    assert json.loads((tmp_path / "verify.json").read_text()) == json.loads(record)


def test_a_check_that_fails_is_named_and_the_exit_status_is_1(short, tmp_path, capsys, monkeypatch):
    from tokensel.engine.stages import Stage

    plain = Stage.kept_of
    monkeypatch.setattr(Stage, "kept_of", lambda self, count: plain(self, count) + 1)
    assert command.main([f"output_dir={tmp_path}", "kept=5", "json=false"]) == 1
    printed = capsys.readouterr().out
    assert "\nFAIL kept " in printed
    assert "\nok   no-op " in printed
    assert "spaced agg_layer=0: 6 tokens remain, not 5" in printed
    assert "FAILED: kept\n" in printed
    assert not json.loads((tmp_path / "verify.json").read_text())["passed"]


def test_a_folder_is_loaded_and_its_path_is_not_in_the_report(tmp_path, monkeypatch):
    folder = save_family("llava", tmp_path / "my checkpoint")

    def quick(loaded, kept, progress):
        return verify(loaded, kept, checks=("unchanged",), questions=QUESTIONS, answered=0)

    monkeypatch.setattr(output, "verify", quick)
    assert command.main([f"model={folder}", f"output_dir={tmp_path / 'out'}", "json=false"]) == 0
    written = (tmp_path / "out" / "verify.json").read_text()
    assert json.loads(written)["model"]["name"] == "my checkpoint"
    assert str(tmp_path) not in written
    assert str(Path.home()) not in written


def test_a_model_is_a_file_of_conf_or_a_folder_with_options():
    settings = command.read_model({"model": "llava_7b", "dtype": "bfloat16", "model.revision": "main"})
    assert (settings.path, settings.dtype, settings.conv) == ("llava-hf/llava-1.5-7b-hf", "bfloat16", "vicuna_v1")
    assert settings.revision == "main"
    assert command.read_model({"model": "/models/x"}).dtype == "auto"
    assert command.read_model({"model": "local", "model.path": "/models/x"}).path == "/models/x"
    assert command.read_model({}).path == "tiny"
    with pytest.raises(TokenselError, match=r"^model\.path: missing; give model\.path=FOLDER$"):
        command.read_model({"model": "local"})
    with pytest.raises(TokenselError, match=r"^model\.dtype=int8: choose one of "):
        command.read_model({"dtype": "int8"})
    with pytest.raises(TokenselError, match=r"^model\.colour: unknown key; keys are path, "):
        command.read_model({"model.colour": "red"})


@pytest.mark.parametrize("arguments", [["x"], ["colour=red"], ["kept=0"], ["model=no_such_model"], ["kept=576"]])
def test_a_mistake_is_one_line_and_status_2(arguments, tmp_path, capsys):
    assert command.main([*arguments, f"output_dir={tmp_path}"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
