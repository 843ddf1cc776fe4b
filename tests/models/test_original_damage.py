"""Each damage to a checkpoint in LLaVA-1.5's original layout is reported in one line, and no pickle runs code."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers.original import VOCABULARY, change_config, error_of, into_cache, write_original, write_tower


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    return write_tower(tmp_path_factory.mktemp("tower") / "clip")


@pytest.fixture(scope="module")
def originals(tmp_path_factory, tower) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    styles = ("sharded-bin", "legacy-bin", "single-safetensors", "projector-apart")
    return {style: write_original(folder / style, tower, style) for style in styles}


@pytest.fixture
def copy(originals, tmp_path) -> Path:
    """A sharded .bin checkpoint that a test may break."""
    return Path(shutil.copytree(originals["sharded-bin"], tmp_path / "copy"))


def test_an_unreachable_hub_says_what_is_missing_and_what_to_set(tmp_path, monkeypatch, copy):
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    message = error_of("us/llava")
    assert "config.json is available neither on the hub nor in its cache" in message
    assert "set model.path" in message
    assert "HF_HOME" in message
    change_config(copy, mm_vision_tower="them/clip")
    into_cache(cache, "us/llava", copy)
    for asked in ("us/llava", copy):
        message = error_of(asked)
        assert "vision tower them/clip" in message
        assert "model.vision_tower=FOLDER" in message


@pytest.mark.parametrize("named", ["/nowhere/clip", "./clip", "~/clip-nowhere", "clip", "", None, 3])
def test_a_tower_that_is_neither_folder_nor_hub_id_is_reported(copy, named):
    message = error_of(change_config(copy, mm_vision_tower=named))
    assert "vision" in message
    assert "model.vision_tower=FOLDER" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type=linear"),
        ({"mm_projector_type": None}, "mm_projector_type=linear"),
        ({"mm_projector_type": "mlp3x_gelu"}, "choose one of mlp2x_gelu"),
        ({"mm_vision_select_feature": "cls"}, "choose one of patch, cls_patch"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer=None"),
        ({"mm_vision_select_layer": -9}, "only 2 layers"),
        ({"mm_hidden_size": 1024}, "hidden_size 24"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True"),
        ({"image_aspect_ratio": "anyres"}, "choose one of square, pad"),
        ({"vocab_size": "many"}, "vocab_size=many"),
        ({"vocab_size": 290}, "of shape"),
        ({"hidden_size": 33}, "config.json does not describe a decoder"),
        ({"num_hidden_layers": 5}, "lack 9 tensors of the model, first model.layers.4.input_layernorm.weight"),
        ({"num_hidden_layers": 3}, "holds 9 tensors that the model does not have, first model.layers.3."),
    ],
)
def test_a_config_unlike_llava_15s_is_reported(copy, changes, expected):
    assert expected in error_of(change_config(copy, **changes))


def shard(folder: Path, number: int = 1) -> Path:
    return folder / f"pytorch_model-{number:05d}-of-00002.bin"


def change_shard(folder: Path, change) -> None:
    tensors = torch.load(shard(folder))
    change(tensors)
    torch.save(tensors, shard(folder))


DAMAGES = {
    "lacks config.json": lambda folder: (folder / "config.json").unlink(),
    "config.json cannot be read": lambda folder: (folder / "config.json").write_text('{"model_type":'),
    "config.json must hold": lambda folder: (folder / "config.json").write_text("[]"),
    "lacks pytorch_model-00002-of-00002.bin": lambda folder: shard(folder, 2).unlink(),
    "index.json is not a list": lambda folder: (folder / "pytorch_model.bin.index.json").write_text('{"a": 1}'),
    "index.json is not": lambda folder: (folder / "pytorch_model.bin.index.json").write_text(
        '{"weight_map": {"a": "../b"}}'
    ),
    "has no weights": lambda folder: [path.unlink() for path in folder.glob("pytorch_model*")],
    "has neither tokenizer.json nor": lambda folder: (folder / "tokenizer.json").unlink(),
    "tokenizer.json cannot be read": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "lack 1 tensors of the model, first lm_head.weight": lambda folder: change_shard(
        folder, lambda t: t.pop("lm_head.weight")
    ),
    "lack 4 tensors of the model, first model.mm_projector.0.bias": lambda folder: [
        drop(folder, f"model.mm_projector.{name}") for name in ("0.weight", "0.bias", "2.weight", "2.bias")
    ],
    "holds 1 tensors that the model does not have, first model.image_newline": lambda folder: change_shard(
        folder, lambda t: t.update({"model.image_newline": torch.zeros(32)})
    ),
    "has model.embed_tokens.weight of shape": lambda folder: change_shard(
        folder, lambda t: t.update({"model.embed_tokens.weight": torch.zeros(VOCABULARY, 31)})
    ),
    "00001-of-00002.bin is not a dictionary of tensors": lambda folder: change_shard(
        folder, lambda t: t.update({"step": 3})
    ),
    "00001-of-00002.bin is truncated or damaged": lambda folder: shard(folder).write_bytes(
        shard(folder).read_bytes()[:-900]
    ),
    "00002-of-00002.bin is refused: it is damaged": lambda folder: shard(folder, 2).write_bytes(b"\x80\x02garbage"),
    "00002-of-00002.bin is truncated or damaged": lambda folder: shard(folder, 2).write_bytes(b""),
}


def drop(folder: Path, name: str) -> None:
    for path in (shard(folder, 1), shard(folder, 2)):
        tensors = torch.load(path)
        tensors.pop(name, None)
        torch.save(tensors, path)


@pytest.mark.parametrize("expected", DAMAGES)
def test_each_damage_is_one_line(copy, expected):
    DAMAGES[expected](copy)
    assert expected in error_of(copy)


def test_a_duplicate_tensor_is_reported(copy):
    first = next(iter(torch.load(shard(copy))))
    tensors = torch.load(shard(copy, 2))
    torch.save(tensors | {first: torch.load(shard(copy))[first]}, shard(copy, 2))
    assert f"first {first}" in error_of(copy)


@pytest.mark.parametrize("style", ["single-safetensors", "legacy-bin"])
@pytest.mark.parametrize("keep", [0, 40, -100])
def test_truncated_weights_are_reported(originals, tmp_path, style, keep):
    folder = Path(shutil.copytree(originals[style], tmp_path / "copy"))
    weights = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "damaged" in error_of(folder)


class _Payload:
    """Unpickling it creates a file, as a malicious checkpoint could."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["pytorch_model-00002-of-00002.bin", "mm_projector.bin"])
@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, 2))])
def test_a_pickle_that_runs_code_is_refused(originals, tmp_path, name, save):
    style = "projector-apart" if name.startswith("mm") else "sharded-bin"
    folder = Path(shutil.copytree(originals[style], tmp_path / "copy"))
    mark = folder / "code-ran"
    save({"lm_head.weight": _Payload(mark)}, folder / name)
    assert f"{name} is refused" in error_of(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("preprocessor_config.json", None, "lacks preprocessor_config.json"),
        ("preprocessor_config.json", "[", "preprocessor_config.json cannot be used"),
        ("config.json", None, "lacks config.json"),
        ("config.json", '{"model_type": "siglip"}', "model_type=siglip"),
        (
            "config.json",
            '{"model_type": "clip", "vision_config": {"hidden_size": "x"}}',
            "not describe a vision tower",
        ),
        ("pytorch_model.bin", None, "has no weights"),
    ],
)
def test_a_damaged_tower_is_reported_as_the_towers(copy, tower, tmp_path, file, content, expected):
    broken = Path(shutil.copytree(tower, tmp_path / "broken"))
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_text(content)
    message = error_of(copy, vision_tower=str(broken))
    assert expected in message
    assert f"its vision tower {broken}" in message


def test_a_tower_without_one_of_its_tensors_is_reported(copy, tower, tmp_path):
    broken = Path(shutil.copytree(tower, tmp_path / "broken"))
    tensors = torch.load(broken / "pytorch_model.bin")
    del tensors["vision_model.pre_layrnorm.bias"]
    torch.save(tensors, broken / "pytorch_model.bin")
    assert "first model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias" in error_of(
        copy, vision_tower=str(broken)
    )


def test_a_tokenizer_model_without_the_package_says_what_to_install(copy, monkeypatch):
    monkeypatch.setattr("tokensel.models.original.processor.find_spec", lambda name: None)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.model").write_bytes(b"")
    assert "pip install sentencepiece" in error_of(copy)
