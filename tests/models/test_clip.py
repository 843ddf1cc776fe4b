"""CLIP's text tower beside a LLaVA: what it computes, when it serves, and what a point's settings say of it."""

import warnings

import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint
from helpers.evaluation import evaluate_points
from helpers.models import llava_inputs, tiny_llava
from helpers.tokenizers import make_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from tokensel import TokenselError, make_method, reduce_tokens
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import clip as clips
from tokensel.models import load_model
from tokensel.models.clip import clip_config, clip_flops, load_clip
from tokensel.testing import make_context

PLACES = 12
DEFAULT = make_method("cdpruner").clip


def save_clip(folder, width=24, seed=0):
    """A random CLIP whose vision tower is as wide as the tests' LLaVA's."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    tokenizer._tokenizer.post_processor = None
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 20,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": PLACES,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 84,
        "patch_size": 14,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16, initializer_factor=10.0)
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def forget():
    yield
    clip_config.cache_clear()
    load_clip.cache_clear()


def stock_text(folder, ids):
    """CLIP's embedding of one segment of token ids, by transformers' own model."""
    model = CLIPModel.from_pretrained(folder).eval()
    mask = torch.tensor([[1] * len(ids) + [0] * (PLACES - len(ids))])
    output = model.text_model(torch.tensor([ids + [0] * (PLACES - len(ids))]), attention_mask=mask)
    return model.text_projection(output.pooler_output)[0]


@torch.no_grad()
def test_a_long_question_is_cut_into_segments_and_a_row_does_not_depend_on_its_neighbours(folder):
    clip = load_clip(folder)
    short, long = "red", "what color is the shape? " * 3
    ids = clip.tokenizer(long)["input_ids"]
    segments = [ids[start : start + PLACES] for start in range(0, len(ids), PLACES)]
    assert len(segments) > 1
    embeds, real = clip.questions([short, long])
    assert real.tolist() == [[True] + [False] * (len(segments) - 1), [True] * len(segments)]
    for ours, segment in zip(embeds[1], segments, strict=True):
        torch.testing.assert_close(ours, stock_text(folder, segment), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(clip.questions([short])[0][0, 0], embeds[0, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_patches_are_projected_as_clip_projects_its_cls(folder):
    stock = CLIPModel.from_pretrained(folder).eval()
    features = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    expected = stock.visual_projection(stock.vision_model.post_layernorm(features))
    torch.testing.assert_close(load_clip(folder).patches(features), expected)


@torch.no_grad()
def test_relevance_is_minus_the_mean_cosine_of_patch_and_question(folder):
    clip, method = load_clip(folder), make_method("cdpruner", clip=folder)
    features = torch.randn(1, 9, 24, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))
    context = make_context(4, tokens=tokens, layer=0, vision_features=features, questions=["what color is the shape?"])
    texts, _ = clip.questions(["what color is the shape?"])
    cosine = torch.nn.functional.cosine_similarity(clip.patches(features)[0, :, None], texts[0][None], dim=-1).mean(1)
    expected = (cosine.max() - cosine) / (cosine.max() - cosine.min())
    torch.testing.assert_close(method.relevance(context)[0], expected, atol=1e-4, rtol=1e-4)
    assert method.select(context).indices.shape == (1, 4)


def test_the_model_reads_its_tower_only_where_clip_belongs_to_it(folder, tmp_path):
    model = tiny_llava()
    assert make_method("cdpruner", clip=folder).reads_tower(model.config)
    assert not make_method("cdpruner", clip=None).reads_tower(model.config)
    other = save_clip(tmp_path, width=32)
    with pytest.warns(UserWarning, match="is not this model's vision tower"):
        assert not make_method("cdpruner", clip=other).reads_tower(model.config)


def test_a_point_with_clip_has_another_key_than_one_without(folder, tmp_path):
    config = tiny_llava().config
    used = GridPoint("cdpruner", 4, method_options={"clip": folder}).settings(config)
    assert used["method_options"]["clip"] == folder
    assert used["method_options"]["clip_revision"]
    without = GridPoint("cdpruner", 4, method_options={"clip": None}).settings(config)
    with pytest.warns(
        UserWarning, match=r"^method.clip=\S+: the decoder's embeddings serve instead \(.*HF_HUB_OFFLINE"
    ):
        offline = GridPoint("cdpruner", 4).settings(config)
    assert offline == without != used
    assert without["method_options"] == {"clip": None}
    with pytest.warns(UserWarning, match="not this model's"):
        misfit = GridPoint("cdpruner", 4, method_options={"clip": save_clip(tmp_path, width=32)}).settings(config)
    assert misfit == without
    reloaded = save_clip(tmp_path / "again", seed=1)
    assert GridPoint("cdpruner", 4, method_options={"clip": reloaded}).settings(config) != used


def test_a_missing_default_is_said_once():
    with pytest.warns(UserWarning, match="decoder's embeddings serve"):
        assert clip_config(DEFAULT) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clip_config(DEFAULT) is None
        assert load_clip(DEFAULT) is None


@pytest.mark.parametrize("path", ["NONSENSE", "", "a b", "/nowhere/x", "owner/name"])
def test_a_checkpoint_that_is_not_to_be_had_is_refused_before_a_model_is_loaded(path):
    point = GridPoint("cdpruner", 4, method_options={"clip": path})
    for config in (None, tiny_llava().config):
        with pytest.raises(TokenselError, match=f"^method.clip={path}: .*; method.clip=null chooses without CLIP$"):
            point.settings(config)


def test_a_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    for wrong in ("the folder has no weights", "model_type=llava; must be 'clip'"):
        with pytest.raises(TokenselError, match=f"^method.clip={tmp_path}: {wrong}; "):
            clip_config(str(tmp_path))
        (tmp_path / "model.safetensors").touch()


@pytest.mark.parametrize("damage", ["truncate", "drop"])
def test_damaged_weights_are_an_error_and_no_reason_to_choose_otherwise(tmp_path, damage):
    path = save_clip(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        model = CLIPModel.from_pretrained(path)
        kept = {name: value for name, value in model.state_dict().items() if "text_projection" not in name}
        model.save_pretrained(path, state_dict=kept)
    with pytest.raises(TokenselError, match=r"^method.clip=.*: cannot be loaded \("):
        load_clip(path)


def test_a_sweeps_choice_is_by_clip_and_the_question(folder, tmp_path):
    loaded = load_model(save_checkpoint(tmp_path / "llava"))
    questions = make_questions(4)
    points = [
        GridPoint("cdpruner", 6, method_options={"clip": folder}),
        GridPoint("cdpruner", 6, method_options={"clip": None}),
    ]
    keep = [question.id for question in questions]
    (used, without), failures = evaluate_points(
        loaded, tmp_path / "a", questions, points, batch_size=3, keep_positions=keep
    )
    assert not failures, failures
    assert any(used[id]["positions"] != without[id]["positions"] for id in keep)
    # One question alone, through the other interface.
    inputs = loaded.prepare(questions[:1])
    given = {"questions": [loaded.protocol.question_text(questions[0])], "tokenizer": loaded.processor.tokenizer}
    for clip, stored in ((folder, used), (None, without)):
        with torch.no_grad(), reduce_tokens(loaded.model, "cdpruner", kept=6, clip=clip, **given) as record:
            loaded.model(**inputs)
        assert record.positions[0].tolist() == stored["q0"]["positions"]


def test_without_a_question_the_instruction_serves(folder):
    model = tiny_llava()
    inputs = llava_inputs(model)
    chosen = []
    for clip in (folder, None):
        with torch.no_grad(), reduce_tokens(model, "cdpruner", kept=6, clip=clip) as record:
            model(**inputs)
        chosen.append(record.positions.tolist())
    assert chosen[0] == chosen[1]


def test_flops_are_those_of_torchs_counter(folder):
    clip = load_clip(folder)
    features = torch.randn(1, 9, 24)
    context = make_context(
        4, tokens=torch.randn(1, 9, 32), layer=0, vision_features=features, questions=["what color?"]
    )
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        make_method("cdpruner", clip=folder).relevance(context)
    assert clip.width == 24
    assert counter.get_total_flops() == clip_flops(folder, 9)


def test_the_default_is_llava_1_5s_own():
    assert DEFAULT == "openai/clip-vit-large-patch14-336"
    assert clips.clip_revision(DEFAULT) is None
