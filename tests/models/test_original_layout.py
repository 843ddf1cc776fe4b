"""LLaVA-1.5 in its original layout gives the same inputs and logits as in transformers' layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.original import (
    COMMIT,
    ROWS,
    STYLES,
    VOCABULARY,
    assert_same,
    change_config,
    inputs_of,
    into_cache,
    load,
    logits_of,
    make_model,
    original_tensors,
    tower_tensors,
    write_hf,
    write_original,
    write_tower,
)

from tokensel.models import load_model
from tokensel.models.original.weights import is_original_layout


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    return write_tower(tmp_path_factory.mktemp("tower") / "clip")


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    loaded = load_model(write_hf(tmp_path_factory.mktemp("hf") / "llava"))
    return loaded.model, loaded.processor


@pytest.fixture(scope="module")
def originals(tmp_path_factory, tower) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    return {style: write_original(folder / style, tower, style) for style in STYLES}


@pytest.fixture
def copy(originals, tmp_path) -> Path:
    """A sharded .bin checkpoint that a test may break."""
    return Path(shutil.copytree(originals["sharded-bin"], tmp_path / "copy"))


@pytest.mark.parametrize("style", STYLES)
def test_every_form_gives_the_same_inputs_and_logits_as_transformers_layout(style, originals, hf):
    assert_same(load(originals[style]), hf)


def test_the_compared_logits_differ_by_picture_and_prompt(hf):
    logits, swapped = logits_of(*hf), logits_of(*hf, swap=True)
    assert (logits - swapped).abs().max() > 1e-2
    assert (logits[-1] - logits[40]).abs().max() > 1e-2


def test_the_model_is_ready_for_inference_and_has_its_special_tokens(originals):
    model, processor = load(originals["sharded-bin"])
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert processor.tokenizer.padding_side == "left"
    assert (processor.image_token_id, processor.tokenizer.pad_token_id) == (VOCABULARY, VOCABULARY + 1)
    assert (model.config.image_token_id, model.config.image_seq_length) == (VOCABULARY, 36)
    settings = model.generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, VOCABULARY + 1)
    assert model.generate(**inputs_of(processor), max_new_tokens=2, do_sample=False).shape[0] == 2


def test_added_rows_fill_up_to_a_multiple_of_64_and_get_the_mean_logit(originals):
    model, processor = load(originals["sharded-bin"])
    logits = model(**inputs_of(processor)).logits
    assert logits.shape[-1] == ROWS
    mean = logits[..., :VOCABULARY].mean(-1, keepdim=True)
    torch.testing.assert_close(logits[..., VOCABULARY:], mean.expand(-1, -1, ROWS - VOCABULARY))


@pytest.mark.parametrize(("stored", "dtype"), [(torch.float16, "auto"), (torch.bfloat16, "auto"), (None, "bfloat16")])
def test_dtype_is_cast_or_kept_as_stored(stored, dtype, tower, tmp_path):
    tensors = {name: tensor.to(stored or tensor.dtype) for name, tensor in original_tensors(make_model()).items()}
    folder = write_original(tmp_path / "copy", tower, "single-bin", tensors)
    model, _ = load(folder, dtype=dtype, device=torch.device("cpu"))
    expected = stored or torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.config.dtype == model.dtype == expected
    weight = model.model.language_model.layers[1].mlp.up_proj.weight
    assert torch.equal(weight, tensors["model.layers.1.mlp.up_proj.weight"].to(expected))
    assert {buffer.dtype for buffer in model.model.language_model.rotary_emb.buffers()} == {torch.float32}


def test_the_weights_do_not_depend_on_the_file_after_loading(copy, hf):
    loaded = load(copy)
    for file in copy.glob("*.bin"):
        file.write_bytes(bytes(file.stat().st_size))
    assert_same(loaded, hf)


def test_the_class_token_is_kept_if_the_config_selects_it(copy, hf):
    change_config(copy, mm_vision_select_feature="cls_patch", mm_vision_select_layer=-1)
    model, processor = load(copy)
    assert (inputs_of(processor)["input_ids"] == processor.image_token_id).sum(-1).tolist() == [37, 37]
    theirs = make_model()
    theirs.config.vision_feature_layer = -1
    theirs.config.vision_feature_select_strategy = "full"
    torch.testing.assert_close(logits_of(model, processor), logits_of(theirs, processor), atol=1e-5, rtol=0)


def test_padding_to_a_square_is_passed_on_in_the_config(copy):
    assert getattr(load(copy)[0].config, "image_aspect_ratio", None) is None
    assert load(change_config(copy, image_aspect_ratio="pad"))[0].config.image_aspect_ratio == "pad"


def test_tied_embeddings_stay_tied(tower, tmp_path, hf):
    tensors = original_tensors(make_model())
    del tensors["lm_head.weight"]
    model, _ = load(write_original(tmp_path / "tied", tower, "single-bin", tensors, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight[:VOCABULARY], tensors["model.embed_tokens.weight"])


def test_a_vision_only_checkpoint_serves_as_tower(copy, tmp_path, hf):
    change_config(copy, mm_vision_tower="openai/not-asked-for")
    assert_same(load(copy, vision_tower=str(write_tower(tmp_path / "vision", whole_clip=False))), hf)


def test_a_tower_inside_the_checkpoint_takes_precedence(tmp_path, tower, hf):
    model = make_model()
    inside = {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in tower_tensors(model).items()}
    other = Path(shutil.copytree(tower, tmp_path / "other"))
    weights = torch.load(other / "pytorch_model.bin")
    torch.save({name: tensor * 0 for name, tensor in weights.items()}, other / "pytorch_model.bin")
    assert_same(load(write_original(tmp_path / "own", other, "sharded-bin", original_tensors(model) | inside)), hf)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def test_model_and_tower_load_from_the_hubs_cache(offline, copy, tower, hf):
    change_config(copy, mm_vision_tower="them/clip")
    into_cache(offline, "us/llava", copy)
    into_cache(offline, "them/clip", tower)
    loaded = load("us/llava")
    assert_same(loaded, hf)
    assert loaded[0].config._commit_hash == COMMIT


def write_sentencepiece(folder: Path) -> None:
    """A small tokenizer.model like LLaMA's: byte-pair pieces, fallback to bytes, settings of newer LLaMA."""
    from transformers.convert_slow_tokenizer import import_protobuf

    format = import_protobuf()
    model = format.ModelProto()
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    merged = ["US", "ER", "USER", "▁USER", "▁A", "▁B", "AS", "re", "red", "▁red"]
    letters = sorted({letter for word in [*merged, "USERASSISTANT:.?abcdefghijklmnoprstuvw▁"] for letter in word})
    for rank, (piece, kind) in enumerate([*pieces, *((word, 1) for word in [*merged, *letters])]):
        model.pieces.add(piece=piece, score=-float(rank), type=kind)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 0, 1, 2
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | tokens))
    (folder / "tokenizer.json").unlink()


def test_a_sentencepiece_tokenizer_encodes_around_the_picture_as_the_original_does(copy):
    sentencepiece = pytest.importorskip("sentencepiece", reason="a tokenizer.model needs the package sentencepiece")
    write_sentencepiece(copy)
    _, processor = load(copy)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(copy / "tokenizer.model"))
    image = processor.image_token_id
    # The original encodes the text before and after a picture each on its own.
    expected = [1, *slow.encode("USER: "), image, *slow.encode("\nred? A. B. ASSISTANT:")]
    assert image == slow.get_piece_size() == processor.tokenizer.pad_token_id - 1
    assert processor.tokenizer("USER: <image>\nred? A. B. ASSISTANT:")["input_ids"] == expected
    assert processor.tokenizer.decode(expected) == "<s> USER: <image> \nred? A. B. ASSISTANT:"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llava_llama"}, True),
        ({"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}, True),
        ({"model_type": "llava", "text_config": {}, "vision_config": {}}, False),
        ({"model_type": "llava"}, False),
        ({"model_type": "llava_mistral", "mm_vision_tower": "x"}, False),
        ({}, False),
    ],
)
def test_the_layout_is_recognised_by_its_config(config, expected):
    assert is_original_layout(config) is expected
