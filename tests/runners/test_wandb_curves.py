"""The curves of a training in W&B: a row for each look; a W&B that fails is noted and stops nothing."""

import pytest
from helpers.wandb_offline import log_out, offline_runs

from runners.wandb_logging import curves

MADE = {"command": "python -m runners.train_aggregator", "model": {"name": "tiny"}}


class Failing:
    def log(self, figures, step):
        raise OSError("no room")

    def finish(self):
        raise OSError("no room")


def test_a_wandb_that_fails_is_noted_and_stops_nothing(tmp_path, monkeypatch, capsys):
    def refuse(*given):
        raise RuntimeError("no server\nmore")

    monkeypatch.setattr(curves, "start_run", refuse)
    with curves.curves_of(tmp_path, MADE) as log:
        log({"step": 5, "loss": 0.5})
    assert capsys.readouterr().err == "note: logger=wandb: no server; the training goes on\n"
    monkeypatch.setattr(curves, "start_run", lambda *given: Failing())
    with curves.curves_of(tmp_path, MADE) as log:
        log({"step": 5, "loss": 0.5})
    assert capsys.readouterr().err == 2 * "note: logger=wandb: no room; the training goes on\n"


@pytest.mark.slow
def test_every_look_is_a_row_of_one_run(tmp_path, monkeypatch):
    log_out(monkeypatch, tmp_path)
    with curves.curves_of(tmp_path, MADE) as log:
        for step in (0, 50):
            log({"step": step, "loss": 0.5 - step / 1000, "temperatures": [0.1]})
    (run,) = offline_runs(tmp_path)
    assert run.finished
    assert [row["loss"] for row in run.history] == [0.5, 0.45]
    assert run.config["command"] == MADE["command"]
