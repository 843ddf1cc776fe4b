"""Every file of every configuration group composes, says when to choose it, and names settings that the code
knows."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runners.configuration import launcher
from runners.sweep import main
from runners.sweeping import run
from tokensel.evaluation.sweep.plan import make_plan
from tokensel.data import DATASETS
from tokensel.data.protocol import CHOICES, Protocol
from tokensel.methods import METHODS
from tokensel.models import load_model

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("method", "model", "data", "logger", "experiment", "hydra/launcher", "hydra/sweeper")
FILES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
NEEDED = {"model=local": ["model.path=folder"], "data=question_file": ["path=questions.json"]}


def composed(*overrides):
    launcher.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("sweep", list(overrides))


def test_no_file_lies_outside_the_groups():
    listed = {CONF / group / f"{name}.yaml" for group, name in FILES}
    listed |= {CONF / "sweep.yaml", CONF / "wandb_sweep.yaml"}
    assert set(CONF.rglob("*.yaml")) == listed


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_choice_composes_to_a_plan(group, name):
    choice = f"{group}={name}"
    plan = make_plan([composed(choice, *NEEDED.get(choice, []))])
    assert plan.groups[0].rows


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_says_when_to_choose_it(group, name):
    comments = [line for line in (CONF / group / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any("Choose it" in line for line in comments)


def test_every_registered_method_and_data_set_has_its_file():
    assert {name for group, name in FILES if group == "method"} >= set(METHODS)
    assert {name for group, name in FILES if group == "data"} == set(DATASETS)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_method_files_hold_the_methods_own_defaults(name):
    from dataclasses import asdict

    options = dict(OmegaConf.load(CONF / "method" / f"{name}.yaml"))
    assert options.pop("name") == name
    defaults = {key: value for key, value in asdict(METHODS[name]()).items() if key != "seed"}
    assert options == defaults


def test_question_file_takes_path_and_image_folder_as_plain_keys_and_as_options():
    plain = make_plan([composed("data=question_file", "path=a.json", "image_folder=b")])
    dotted = make_plan([composed("data=question_file", "data.path=a.json", "data.image_folder=b")])
    assert plain.groups[0].data == dotted.groups[0].data


def test_model_files_hold_the_arguments_of_load_model_and_the_models_own_protocol():
    own = ["conv", "image_aspect"]
    for file in sorted((CONF / "model").glob("*.yaml")):
        keys = list(OmegaConf.load(file))
        assert sorted(keys) == sorted([*inspect.signature(load_model).parameters, *own]), file.name
        assert keys[-2:] == own


def test_a_models_own_protocol_holds_unless_another_is_chosen():
    (own,) = make_plan([composed("model=llava_7b")]).groups
    assert own.protocol == Protocol(conv="vicuna_v1")
    assert not set(own.model) & set(CHOICES)
    (chosen,) = make_plan([composed("model=llava_7b", "conv=model", "image_aspect=crop", "prompt=lmms")]).groups
    assert chosen.protocol == Protocol(prompt="lmms", conv="model", image_aspect="crop")
    assert chosen.model == own.model


@pytest.mark.parametrize(("scoring", "count"), [("letter", 1), ("generate", 3)])
def test_a_reading_makes_points_of_its_own_only_where_answers_are_written(scoring, count):
    plan = make_plan([composed(f"scoring={scoring}", f"reading={reading}") for reading in CHOICES["reading"]])
    assert len(plan.groups) == count
    readings = [group.protocol_settings["reading"] for group in plan.groups]
    assert readings == ([None] if scoring == "letter" else list(CHOICES["reading"]))


@pytest.mark.parametrize(("launcher_name", "times"), [("one_pass", 1), ("basic", 2)])
def test_the_sweeper_composes_each_job_again_only_for_launchers_that_run_elsewhere(launcher_name, times, monkeypatch):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    composed, load = [], ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_sweep_config", lambda *given, **named: composed.append(1) or load(*given, **named)
    )
    monkeypatch.setattr(run, "run_sweep", lambda configs: 0)
    assert main(["method=fps,tome", "kept=4,8", f"hydra/launcher={launcher_name}", "--multirun"]) == 0
    assert len(composed) == times * 4
