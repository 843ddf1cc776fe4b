"""The same weights in transformers' and in the original layout give the same logits, prompts and sweep table."""

import json

import pytest
import torch
from helpers.checkpoints import make_questions, save_question_file
from helpers.original import VOCABULARY, write_hf, write_original, write_tower

from runners import sweep
from tokensel import TokenselError
from tokensel.models import load_model

pytestmark = pytest.mark.usefixtures("undrawn")

STYLES = ("sharded-bin", "sharded-safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("layouts")
    tower = write_tower(base / "tower")
    layouts = {style: write_original(base / style, tower, style) for style in STYLES}
    return layouts | {"hf": write_hf(base / "hf")}


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_both_layouts_give_the_same_logits_and_the_processors_prompt(folders, style):
    ours, theirs = load_model(folders[style]), load_model(folders["hf"])
    questions = make_questions(4)
    given, expected = ours.prepare(questions), theirs.prepare(questions)
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(given[name], expected[name])
    real = given["attention_mask"].bool()  # added tokens, such as padding, have different embeddings in each layout
    logits, wanted = (m.model(**given).logits[real][:, :VOCABULARY] for m in (ours, theirs))
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    for loaded in (ours, theirs):
        texts, pictures = [loaded.prompt(q) for q in questions], [q.load_image() for q in questions]
        prompts = loaded.processor(images=pictures, text=texts, padding=True, return_tensors="pt")
        assert torch.equal(prompts["input_ids"], given["input_ids"])


@pytest.mark.slow
def test_both_layouts_give_the_same_sweep_table(folders, tmp_path, capsys):
    file = save_question_file(tmp_path / "questions", 5)
    tables = {}
    for name, folder in folders.items():
        status = sweep.main(
            [
                "model=local",
                f"model.path={folder}",
                "model.dtype=float32",
                "data=question_file",
                f"path={file}",
                f"image_folder={file.parent / 'images'}",
                "method=fps,tome",
                "kept=4,8",
                "latency.repeats=0",
                "logger=none",
                f"output_dir={tmp_path / name}",
                "--multirun",
            ]
        )
        assert status == 0
        printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        shown = ("method", "kept", "n", "correct", "accuracy", "ci_low", "ci_high", "flops", "kv_bytes", "min_margin")
        tables[name] = [[point[key] for key in shown] for point in printed["points"]]
    assert len(tables["hf"]) == 2 * 2 + 2 * 2 + 2
    for style in STYLES:
        for line, expected in zip(tables[style], tables["hf"], strict=True):
            assert line[:-1] == expected[:-1]
            assert line[-1] == pytest.approx(expected[-1], abs=1e-5)


def test_random_weights_and_the_original_layout_refuse_a_device_map(folders):
    for path in ("random:llava_1024", folders["sharded-bin"]):
        with pytest.raises(TokenselError, match="device_map"):
            load_model(path, quantization=None, device_map="auto")
