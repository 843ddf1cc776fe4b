"""Fields of a checkpoint's files that are of the wrong type or impossible: one line that names file and field."""

import json
import os

import pytest
import torch
from helpers.checkpoints import save_checkpoint
from safetensors.torch import load_file, save_file

from tokensel.errors import TokenselError
from tokensel.models import checkpoint_revision, load_model
from tokensel.models.checkpoint_files import check_folder
from tokensel.models.loading import check_options
from tokensel.models.weightless import load_without_weights


@pytest.fixture
def folder(tmp_path):
    return save_checkpoint(tmp_path / "checkpoint")


def change(folder, file, field, value):
    content = json.loads((folder / file).read_text())
    *parents, last = field.split(".")
    part = content
    for parent in parents:
        part = part[parent]
    part[last] = value
    (folder / file).write_text(json.dumps(content))


def refusal(folder):
    try:
        check_folder("local", folder)
    except TokenselError as error:
        return str(error)
    return ""


WRONG = [
    ("config.json", "text_config.num_hidden_layers", "eight"),
    ("config.json", "text_config.num_hidden_layers", 10**9),
    ("config.json", "text_config.vocab_size", True),
    ("config.json", "text_config.hidden_size", -1),
    ("config.json", "text_config.hidden_size", 10**30),
    ("config.json", "text_config", "text"),
    ("config.json", "vision_config.patch_size", 0),
    ("config.json", "vision_config.image_size", [[1]]),
    ("config.json", "vision_config.hidden_act", 5),
    ("config.json", "vision_feature_layer", "last"),
    ("config.json", "image_token_index", -1),
    ("generation_config.json", "eos_token_id", "text"),
    ("processor_config.json", "image_processor.size", "large"),
    ("processor_config.json", "image_processor.size.shortest_edge", 0),
    ("processor_config.json", "image_processor.crop_size.width", "text"),
    ("processor_config.json", "image_processor.rescale_factor", "text"),
    ("processor_config.json", "image_processor.image_std", 0),
    ("processor_config.json", "image_token", 3.5),
    ("tokenizer_config.json", "padding_side", []),
    ("tokenizer_config.json", "tokenizer_class", 7),
]


def test_a_wrong_field_is_named_with_its_file_before_anything_is_loaded(folder):
    for file, field, value in WRONG:
        before = (folder / file).read_text()
        change(folder, file, field, value)
        told = refusal(folder)
        assert f"{folder / file} has {field}=" in told, (file, field, value)
        assert "\n" not in told
        (folder / file).write_text(before)
    check_folder("local", folder)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "text_config.mlp_bias", "text"),
        ("config.json", "text_config.hidden_act", "no_such_function"),
        ("config.json", "text_config.rope_parameters.rope_type", "text"),
        ("config.json", "image_token_index", 0),
        ("processor_config.json", "image_processor.image_mean", []),
        ("processor_config.json", "num_additional_image_tokens", None),
        ("processor_config.json", "image_processor.crop_size.width", 70),
    ],
)
def test_what_only_loading_finds_names_the_file(folder, file, field, value, capfd):
    change(folder, file, field, value)
    with pytest.raises(TokenselError, match=file) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_chat_template_that_cannot_be_filled_in_is_named(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content | no_such_filter }}")
    with pytest.raises(TokenselError, match=r"chat_template.jinja cannot be used"):
        load_without_weights(folder)


def test_weights_that_the_configuration_has_no_place_for_are_refused(folder, capfd):
    change(folder, "config.json", "text_config.num_hidden_layers", 2)
    with pytest.raises(
        TokenselError, match=r"hold \d+ tensors that the model of config.json has no place for"
    ) as caught:
        load_model(folder)
    assert "layers.2." in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_shape_that_does_not_fit_is_one_line(folder, capfd):
    change(folder, "config.json", "text_config.intermediate_size", 40)
    with pytest.raises(TokenselError, match=r"down_proj.weight of shape .*; config.json asks for \[\d+, 40\]"):
        load_model(folder)
    assert capfd.readouterr().err == ""


def test_buffers_that_older_releases_stored_are_no_surplus(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.language_model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).num_image_tokens == 36


@pytest.mark.parametrize("value", ["no", "False", 0, None])
def test_trust_remote_code_takes_true_or_false_and_nothing_else(value):
    for load in (load_model, load_without_weights):
        with pytest.raises(TokenselError, match=r"model.trust_remote_code=.*: must be true or false"):
            load("tiny", trust_remote_code=value)


@pytest.mark.parametrize("path", ["tiny", "random:llava_7b"])
def test_an_option_that_has_no_effect_is_refused(path):
    with pytest.raises(TokenselError, match=r"model.revision=main: must be null"):
        check_options(path, revision="main")
    with pytest.raises(TokenselError, match=r"model.vision_tower=clip: must be null"):
        check_options(path, vision_tower="clip")


def test_a_pipe_among_the_files_does_not_hang(folder):
    before = checkpoint_revision(folder)
    os.mkfifo(folder / "more_config.json")
    assert checkpoint_revision(folder) == before
