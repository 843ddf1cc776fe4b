"""Which models are refused by name, and how a family that is not listed says which it is like."""

import pytest
import torch
import transformers
from helpers.families import QUESTIONS, save_family

from runners.classic.evaluation import load_classic
from runners.survivors.request import load_requested_model
from tokensel import TokenselError, reduce_tokens
from tokensel.compat import load_pretrained_model
from tokensel.compat.arguments import parse_flags
from tokensel.compat.lmms_eval.options import read_options
from tokensel.engine.split import SplitModel
from tokensel.evaluation.sweep.groups import ModelSettings
from tokensel.models import load_model
from tokensel.models.families import FAMILIES, family_of
from tokensel.models.loading import checkpoint_config
from tokensel.models.parts import find_parts
from tokensel.models.weightless import load_without_weights

TEXT = {"num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 97, "head_dim": 8}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def hybrid_config():
    """Three layers of linear attention, and one of full attention."""
    return transformers.Qwen3_5Config(text_config=TEXT)


HYBRID = (
    "model_type=qwen3_5: 3 of 4 layers are of the kind linear_attention, which keeps one running state instead of "
    "keys: no token can be masked in it or removed from its cache; allowed are models with attention in every layer"
)


@pytest.mark.parametrize("like", [None, "qwen2_5_vl"])
def test_a_hybrid_model_is_refused_with_the_reason_whatever_it_is_said_to_be_like(like, tmp_path):
    config = hybrid_config()
    with pytest.raises(TokenselError) as refusal:
        family_of(config, like)
    assert str(refusal.value) == HYBRID
    with torch.device("meta"):
        whole = transformers.Qwen3_5ForConditionalGeneration(config)
    for model in (whole, whole.model.language_model):
        with pytest.raises(TokenselError, match=r"^model_type=qwen3_5\w*: 3 of 4 layers are of the kind linear"):
            reduce_tokens(model, "fps", kept=4, family=like, image_mask=torch.ones(1, 4, dtype=torch.bool))
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for load in (load_model, load_without_weights):
        with pytest.raises(TokenselError) as refusal:
            load(tmp_path, family=like)
        assert str(refusal.value) == f"model.path={tmp_path}: {HYBRID}"


@pytest.mark.parametrize("name", ["Qwen3NextConfig", "JambaConfig", "FalconH1Config", "Lfm2VlConfig"])
def test_other_hybrid_decoders_are_refused_too(name):
    config = getattr(transformers, name)()
    if name == "Lfm2VlConfig":
        config.text_config.layer_types = ["conv", "full_attention"]
    with pytest.raises(TokenselError, match=rf"^model_type={config.model_type}: \d+ of \d+ layers are of the kind "):
        family_of(config)


def test_no_tested_family_is_taken_for_a_hybrid_one():
    kinds = [transformers.CONFIG_MAPPING[name] for name in FAMILIES]
    assert [family_of(kind()) for kind in kinds] == list(FAMILIES.values())


@pytest.fixture
def unlisted(tmp_path, monkeypatch):
    """A checkpoint of a family that is not listed, and works like llava."""
    folder = save_family("vipllava", tmp_path)
    monkeypatch.delitem(FAMILIES, "vipllava")
    return folder


def test_a_family_that_is_not_listed_is_refused_until_it_is_said_which_it_is_like(unlisted):
    message = (
        rf"^model.path={unlisted}: model_type=vipllava: not tested; allowed are llava, .*; family=NAME \(model.fam"
    )
    for load in (load_model, load_without_weights):
        with pytest.raises(TokenselError, match=message):
            load(unlisted)
        with pytest.raises(TokenselError, match=r"^model.family=lava: unknown; choose one of llava, .* mean llava\?$"):
            load(unlisted, family="lava")
        assert load(unlisted, family="llava").family is FAMILIES["llava"]
    with pytest.raises(TokenselError, match=r"^model_type=vipllava: not tested"):
        family_of(checkpoint_config(unlisted))
    assert family_of(checkpoint_config(unlisted, family="llava")) is FAMILIES["llava"]


@torch.no_grad()
def test_the_family_reaches_the_engine_in_every_way_of_loading(unlisted):
    loaded = load_model(unlisted, family="llava")
    inputs = loaded.prepare(QUESTIONS[:1])
    with reduce_tokens(loaded.model, "fps", kept=4):
        logits = loaded.model(**inputs).logits
    assert logits.shape[1] < inputs["input_ids"].shape[1]
    flags = ["--question-file", "q.json", "--image-folder", ".", "--model-path", str(unlisted), "--device", "cpu"]
    settings = ModelSettings(path=str(unlisted), family="llava", device="cpu")
    for model in (
        loaded.model,
        SplitModel(loaded.model).parts.llava,
        load_model(**settings.load_arguments()).model,
        load_pretrained_model(unlisted, None, "", device="cpu", family="llava")[1].stock,
        load_requested_model({"model": str(unlisted), "family": "llava"}).model,
        load_classic(parse_flags(None, [*flags, "--family", "llava"]))[0].model,
    ):
        assert find_parts(model).family is FAMILIES["llava"]
    assert settings.in_key()["family"] == "llava"
    assert read_options({"pretrained": str(unlisted), "family": "llava"}).settings.model.family == "llava"
