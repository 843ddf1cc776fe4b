"""The embedded LLaVA is an ordinary small checkpoint that sees, and a stopped training continues."""

import copy
import json
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration

from runners import train_tiny
from tokensel.data import load_questions
from tokensel.data.easy_vqa import load_easy_vqa
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.store import PointStore
from tokensel.models import EMBEDDED, load_model
from tokensel.training import gallery, train
from tokensel.training.schedule import TrainingSchedule
from tokensel.training.train import make_student, train_language, train_vision


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_it_is_an_ordinary_llava_of_at_most_16_mb():
    folder = EMBEDDED["tiny"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llava"
    assert (config["vision_config"]["image_size"], config["vision_config"]["patch_size"]) == (336, 14)
    assert config["text_config"]["num_hidden_layers"] >= 8
    assert (folder / "model.safetensors").stat().st_size <= 16e6
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert sum(weights.get_slice(name).get_shape() != [] for name in weights.keys()) > 50  # noqa: SIM118


@pytest.mark.slow
def test_it_is_loaded_like_any_folder(tiny):
    again = load_model(str(EMBEDDED["tiny"]))
    assert type(tiny.model) is type(again.model) is LlavaForConditionalGeneration
    questions = load_questions("diagrams", limit=1)
    with torch.inference_mode():
        a, b = (m.model(**m.prepare(questions)).logits[:, -1] for m in (tiny, again))
    assert torch.equal(a, b)


def test_a_picture_becomes_576_visual_tokens(tiny):
    inputs = tiny.prepare(load_questions("diagrams", limit=1))
    assert (inputs["input_ids"] == tiny.model.config.image_token_id).sum() == 576
    features = tiny.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True).pooler_output
    assert features[0].shape == (576, tiny.model.config.text_config.hidden_size)


@given(text=st.text(max_size=40))
def test_its_tokenizer_encodes_any_text(tiny, text):
    tokenizer = tiny.processor.tokenizer
    kept = text.replace("\r", "")
    ids = tokenizer(kept, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == kept


@pytest.mark.slow
def test_it_sees(tiny, tmp_path):
    """With the picture accuracy is more than 25 points higher than without; without it, near chance."""
    questions = load_questions("diagrams", limit=24)
    points = [GridPoint("full"), GridPoint("no_image", agg_layer=0)]
    stores = [PointStore(tmp_path / point.method) for point in points]
    assert evaluate(tiny, questions, points, stores) == {}
    full, no_image = (sum(record["correct"] for record in store.predictions()) / len(questions) for store in stores)
    chance = sum(1 / len(q.choices) for q in questions) / len(questions)
    assert full - no_image > 0.25
    assert abs(no_image - chance) < 0.4  # four standard errors at n = 24
    published = json.loads((EMBEDDED["tiny"] / "figures.json").read_text())["diagrams"]
    assert abs(full - published["full"]) < 0.2


@pytest.mark.slow
def test_evaluate_prints_its_figures_as_the_last_line(capsys):
    assert train_tiny.main(["--evaluate", "--limit", "2", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(figures) == {"diagrams", "easy_vqa"}
    assert {"full", "no_image", "chance", "n", "families"} <= set(figures["diagrams"])
    assert figures["diagrams"]["n"] == figures["easy_vqa"]["n"] == 2


class _Stopped(Exception):
    pass


@cache
def some_easy_vqa(split):
    return load_easy_vqa(split)[::20]


@pytest.mark.slow
def test_a_stopped_training_continues(tmp_path, monkeypatch):
    for module in (train, gallery):  # ten readings of 38,000 questions cost seconds
        monkeypatch.setattr(module, "load_easy_vqa", some_easy_vqa)
    schedule = TrainingSchedule(vision_steps=1, vision_batch=1, steps=2, batch=1, save_every=1)

    untrained, processor = make_student(schedule.seed)

    def teach(folder, stop_at=None):
        model = copy.deepcopy(untrained)
        torch.manual_seed(schedule.seed)  # as make_student does

        def report(step, figures):
            assert figures["loss"] > 0
            if step == stop_at:
                raise _Stopped

        train_vision(model, schedule, folder, "cpu", lambda step, figures: None)
        train_language(model, processor.tokenizer, schedule, folder, "cpu", report)
        return model.state_dict()

    whole = teach(tmp_path / "whole")
    with pytest.raises(_Stopped):
        teach(tmp_path / "parts", stop_at=2)
    parts = teach(tmp_path / "parts")
    before = untrained.state_dict()
    for name, weight in whole.items():
        assert torch.allclose(weight, parts[name], atol=1e-6), name
    assert any(not torch.equal(weight, before[name]) for name, weight in whole.items() if "language_model" in name)


def test_pictures_of_another_size_are_resized(tiny):
    picture = Image.new("RGB", (200, 500), "red")
    assert tiny.pixels([picture]).shape == (1, 3, 336, 336)
