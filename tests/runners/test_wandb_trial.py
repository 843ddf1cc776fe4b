"""A W&B sweep over several machines: conf/wandb_sweep.yaml, the command that an agent makes of it, and what the job
logs."""

import json
from functools import partial

import pytest
import wandb
import yaml
from helpers.wandb_offline import log_out, offline_runs, save_world, start_sweep
from wandb.wandb_agent import Agent

from runners import sync
from runners.configuration.compose import compose_jobs, read_command
from runners.sweep import CONF
from runners.wandb_logging.runs import run_id
from tokensel.evaluation.sweep.plan import make_plan
from tokensel.evaluation.sweep.reading import read_settings

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """W&B reads the environment, in which nobody is logged in, and forgets afterwards what a test told it."""
    log_out(monkeypatch, tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """Composes the command of a trial as `wandb agent` does, and leaves its environment as the job would find it."""
    commands = []
    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", lambda command, **_: commands.append(command) or Process())
    for name, value in [("DIR", str(tmp_path)), ("SWEEP_ID", "sweep1"), ("PROJECT", "where-the-sweep-is")]:
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("RUN_ID", "SWEEP_PARAM_PATH"):
        monkeypatch.setenv(f"WANDB_{name}", "replaced")

    def trial(assigned, run="trial1"):
        config = sweep_config()
        one = Agent(api=None, queue=None, sweep_id="sweep1")
        one._sweep_command = config["command"]
        arguments = {key: {"value": value} for key, value in assigned.items()}
        one._command_run({"run_id": run, "program": config["program"], "args": arguments})
        return commands[-1]

    return trial


class Process:
    """In place of a job's process, on which the agent notes when it was stopped."""


def sweep_config():
    return yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())


def assignments():
    """So many of the grid that each value occurs."""
    values = {key: entry["values"] for key, entry in sweep_config()["parameters"].items()}
    count = max(map(len, values.values()))
    return [{key: each[index % len(each)] for key, each in values.items()} for index in range(count)]


def test_the_sweep_file_has_the_form_that_wandb_asks_for():
    config = sweep_config()
    assert config.keys() == {"project", "program", "command", "method", "metric", "parameters"}
    assert config["method"] == "grid"
    assert config["metric"] == {"name": "accuracy", "goal": "maximize"}
    assert config["parameters"].keys() == {"kept", "method", "agg_layer", "temperature"}
    assert all(list(entry) == ["values"] and entry["values"] for entry in config["parameters"].values())
    assert (CONF.parent / config["program"]).is_file()
    assert config["project"] == yaml.safe_load((CONF / "logger/wandb.yaml").read_text())["project"]


@pytest.mark.parametrize("assigned", assignments())
def test_an_agents_command_composes_to_the_assigned_point(agent, assigned):
    command = agent(assigned)
    assert command[:4] == ["/usr/bin/env", "python", "-m", "runners.sweep"]
    plan = make_plan([read_settings(job) for job in compose_jobs(read_command(command[4:]), CONF)])
    assert plan.settings.name == "trial1"
    ((planned,),) = [group.points for group in plan.groups]
    settings = planned.point.settings()
    for key, value in assigned.items():
        assert settings[key] in (value, None if key == "temperature" else value)


@pytest.mark.slow
def test_an_agents_job_logs_its_point_to_the_trials_run_and_controls_to_theirs(agent, tmp_path, monkeypatch, capsys):
    command = agent({"kept": 4, "method": "fps", "agg_layer": 2, "temperature": 0.3})
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = partial(start_sweep, save_world(tmp_path), tmp_path / "out")
    assert sweep(*command[4:], "controls=[fps]", f"output_dir={tmp_path / 'out'}") == 0
    own, control = offline_runs(tmp_path / "out")
    assert (own.start.run_id, own.start.sweep_id, own.config["temperature"]) == ("trial1", "sweep1", 0.3)
    assert isinstance(own.summary["accuracy"], float)
    assert (control.start.sweep_id, control.config["temperature"]) == ("", 0.1)
    key = next(path.parent.name for path in tmp_path.glob("out/trial1/*/config.yaml") if "0.1\n" in path.read_text())
    assert control.start.run_id == run_id(key, "where-the-sweep-is")
    assert {run.start.project for run in (own, control)} == {"where-the-sweep-is"}
    assert {run.start.run_group for run in (own, control)} == {"sweep1"}

    for name in ("RUN_ID", "SWEEP_ID", "SWEEP_PARAM_PATH", "PROJECT"):
        monkeypatch.delenv(f"WANDB_{name}")
    wandb.teardown()
    capsys.readouterr()
    assert sync.main([str(tmp_path / "out")]) == 0
    pushed = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert set(pushed) == {own.start.run_id, control.start.run_id}, "pushed later: the same runs"
