"""The doctor: what it finds on this machine, and that it says so where something is wrong."""

import json
import os

import pytest
import torch

from runners import doctor


def test_nothing_is_bad_on_this_machine(capsys):
    assert doctor.main(["network=false"]) == 0
    *lines, record = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Nothing is bad: sweeps can run."
    found = json.loads(record)
    assert found["bad"] == 0
    assert found["notes"] == sum(line.startswith("note ") for line in lines)
    assert [each["text"] for each in found["findings"]] == [line[16:] for line in lines[:-1]]
    assert any("full: the expected answers to 10 questions" in line for line in lines)
    assert any("fps: the expected answers to 10 questions" in line for line in lines)
    assert any(line.startswith("ok   versions   torch ") or line.startswith("note versions   torch ") for line in lines)
    assert any("for outputs" in line for line in lines)


@pytest.mark.slow
def test_other_answers_are_bad_and_named(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "ANSWERS", {"full": "A" * 10, "fps": "ABBBCBBBAB"})
    found = list(doctor.check_evaluation())
    assert found[0].level == "BAD"
    assert "instead of AAAAAAAAAA" in found[0].text
    assert found[1].level == "ok"


def test_an_old_or_missing_package_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=99", "no-such-package>=1", "numpy; extra == 'x'"])
    bad = [finding.text for finding in doctor.check_versions() if finding.level == "BAD"]
    assert [text.split(";")[0] for text in bad] == [
        f"torch {torch.__version__}: needs >=99",
        "no-such-package: not installed",
    ]
    assert "pip install 'torch>=99'" in bad[0]


def test_another_version_than_tested_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_pinned", lambda file: {"torch": "1.0"})
    assert any(f.level == "note" and f.text.endswith("(tested: 1.0)") for f in doctor.check_versions())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_bad(tmp_path):
    tmp_path.chmod(0o500)
    (finding,) = doctor.check_disk(tmp_path / "outputs" / "x")
    assert finding.level == "BAD"


def test_a_file_in_the_way_and_a_full_disk_are_bad(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (finding,) = doctor.check_disk(tmp_path / "file" / "outputs")
    assert finding.level == "BAD"
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**80)
    (finding,) = doctor.check_disk(tmp_path)
    assert (finding.level, "make room" in finding.text) == ("BAD", True)


def test_a_check_that_fails_is_bad_and_the_others_go_on(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_device", lambda: (_ for _ in ()).throw(RuntimeError("driver\nmore")))
    monkeypatch.setattr(doctor, "check_evaluation", lambda: iter([doctor.Finding("ok", "ran")]))
    assert doctor.main(["network=false", "json=false"]) == 1
    printed = capsys.readouterr().out
    assert "BAD  device     RuntimeError: driver\n" in printed
    assert "ok   evaluation ran" in printed
    assert printed.endswith("1 bad: see above.\n")


def test_an_unreachable_network_is_a_note(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(doctor.urllib.request, "urlopen", refuse)
    assert {finding.level for finding in doctor.check_network()} == {"note"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_kernel_and_compiled_graphs_are_checked():
    assert "kernel" in next(doctor.check_kernels()).text
    assert list(doctor.check_evaluation())[-1] == doctor.Finding("ok", "compiled graphs: the same answers")


@pytest.mark.parametrize("arguments", [["x"], ["network=maybe"], ["colour=red"]])
def test_a_mistake_is_one_line(arguments, capsys):
    assert doctor.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
