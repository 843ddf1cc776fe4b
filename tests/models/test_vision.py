"""What a vision tower computed, family by family, against the stock tower: its eager attention, and which visual tokens
of the decoder change with a patch."""

import math
from functools import cache

import pytest
import torch
from helpers.families import FAMILIES, load_family, make_picture
from helpers.models import llava_inputs, tiny_llava
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokensel import TokenselError, reduce_tokens
from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.engine.split import SplitModel
from tokensel.models.families import family_of
from tokensel.models.tap import VisionTap
from tokensel.models.tower_layer import received_attention, run_layer, tower_attention

WITH_CLS = ("llava", "vipllava", "llava_next", "llava_next_video", "video_llava", "internvl")
# Whose patches are the visual tokens.
PLAIN = ("llava", "vipllava", "video_llava")


def question(size, seed=0):
    picture = make_picture(size, seed)
    return Question(id=f"{size}{seed}", text="what?", choices=("red", "teal"), answer=0, image=picture)


WIDE = [question((240, 130)), question((240, 130), seed=1)]
SHAPES = {"wide": WIDE, "tall": [question((70, 150))], "small": [question((60, 60))]}


@pytest.fixture(scope="module")
def loaded():
    @cache
    def of(family):
        return load_family(family).with_protocol(Protocol(image_aspect="crop"))  # pictures as wide as they are

    return of


def pictures_of(loaded, questions):
    along = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
    inputs = loaded.prepare(questions)
    pictures = {name: value for name, value in inputs.items() if name not in along}
    return pictures | loaded.family.companions(inputs["input_ids"] == loaded.image_token_id, pictures)


def states_of(loaded, pictures):
    features, states = SplitModel(loaded.model).features(pictures, uses_vision=True)
    return states.with_tokens(torch.stack(features))


def tower_of(loaded):
    llava = loaded.model.model
    names = ("vision_tower", "visual", "vision_model", "image_tower")
    return next(getattr(llava, name) for name in names if hasattr(llava, name))


def layers_of(loaded):
    return next(part for part in tower_of(loaded).modules() if isinstance(part, torch.nn.ModuleList))


@torch.no_grad()
def eager_attention(loaded, pictures, monkeypatch, one_head=False):
    """The probabilities of each layer of the stock tower: a list of [heads, T, T], one for each call and tile."""
    rows = [[] for _ in layers_of(loaded)]
    attentions = [tower_attention(layer) for layer in layers_of(loaded)]

    def eager(module, query, key, value, mask=None, scaling=None, **rest):
        scaled = query.shape[-1] ** -0.5
        assert scaling is None or math.isclose(scaling, scaled)
        weights = (query @ key.transpose(2, 3) * scaled + (0 if mask is None else mask)).softmax(-1)
        if one_head:
            wide = (each.transpose(1, 2).flatten(2) for each in (query, key))
            whole = torch.einsum("bqd,bkd->bqk", *wide) * (query.shape[1] * query.shape[3]) ** -0.5
            rows[attentions.index(module)].extend(whole.softmax(-1).unsqueeze(1))
        else:
            rows[attentions.index(module)].extend(weights)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "kept_for_a_test", eager)
    configs = {id(module.config): module.config for module in tower_of(loaded).modules() if hasattr(module, "config")}
    for config in configs.values():
        monkeypatch.setattr(config, "_attn_implementation_internal", "kept_for_a_test")
    loaded.family.features(loaded.model.model, pictures)
    monkeypatch.undo()
    return rows


@torch.enable_grad()
def mixtures(loaded, pictures):
    """What visual tokens are made of: for each picture, the share [N, patches] of each patch of the whole call.

    A patch belongs to the tokens that change with its state, behind the layer whose output is projected.
    """
    llava, layers = loaded.model.model, layers_of(loaded)
    layer = layers[loaded.model.config.vision_feature_layer if "llava_next" in str(type(llava)).lower() else -1]
    special = int(loaded.model.config.model_type in WITH_CLS)
    stock, states = layer.forward, []

    def forward(*args, **kwargs):
        output = stock(*args, **kwargs)
        assert isinstance(output, torch.Tensor)
        flat = (output[:, special:] if output.ndim == 3 else output).detach().reshape(-1, output.shape[-1])
        states.append(flat.requires_grad_())
        if output.ndim == 2:
            return flat
        return torch.cat([output[:, :special], flat.view(len(output), -1, output.shape[-1])], 1)

    try:
        layer.forward = forward
        projected = loaded.family.features(llava, pictures)
    finally:
        del layer.forward
    (flat,) = states
    shares = []
    for each in projected:
        direction = torch.randn(each.shape[1], generator=torch.Generator().manual_seed(0))
        shares.append(torch.stack([changes_with(flat, token @ direction) for token in each]))
    return [share / share.sum(1, keepdim=True).clamp_min(1) for share in shares]


def changes_with(states, value):
    """1 for each of the states [patches, D] that the value depends on, else 0."""
    if not value.requires_grad:
        return torch.zeros(len(states))
    (gradient,) = torch.autograd.grad(value, states, retain_graph=True, allow_unused=True)
    return torch.zeros(len(states)) if gradient is None else (gradient != 0).any(1).float()


@pytest.fixture(scope="module")
def mixtures_of(loaded):
    """`mixtures` of a family's pictures of a shape, computed once."""

    @cache
    def of(family, shape):
        return mixtures(loaded(family), pictures_of(loaded(family), SHAPES[shape]))

    return of


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(PLAIN)))
def test_attention_and_keys_are_those_of_the_patches_that_a_token_is_made_of(
    loaded, mixtures_of, family, shape, monkeypatch
):
    model = loaded(family)
    pictures = pictures_of(model, SHAPES[shape])
    states, made_of = states_of(model, pictures), mixtures_of(family, shape)
    special = int(family in WITH_CLS)
    for layer, one_head in ((-1, False), (-2, False), (-1, True)):
        rows = eager_attention(model, pictures, monkeypatch, one_head)
        index = layer if special else -1  # the last layer in which all see all
        patches = torch.cat([each[:, 0, 1:] if special else each.mean(1) for each in rows[index]], 1)
        attention, keys = states.cls_attention_and_keys(layer, one_head)
        torch.testing.assert_close(attention, states.cls_attention(layer, one_head))
        torch.testing.assert_close(keys, states.keys(layer))
        for found, shares in zip(attention, made_of, strict=True):
            torch.testing.assert_close(found, patches @ shares.T, atol=1e-5, rtol=1e-4)
    assert keys.shape[:2] == states.features.shape[:2] == attention[:, 0].shape
    newline = made_of[0].sum(1) == 0
    assert bool(newline.any()) == (family in ("llava_next", "llava_next_video", "llava_onevision"))
    assert not attention[0][:, newline].any()
    assert not keys[0][newline].any()
    assert attention[0][:, ~newline].all()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_has_the_same_states_in_a_batch_as_alone(loaded, family):
    model = loaded(family)
    together = states_of(model, pictures_of(model, WIDE))
    for row in range(2):
        alone, picked = states_of(model, pictures_of(model, WIDE[row : row + 1])), together.rows(torch.tensor([row]))
        for one, other in ((alone, picked), (picked, picked.rows(torch.tensor([0])))):
            torch.testing.assert_close(one.cls_attention(), other.cls_attention(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(one.keys(), other.keys(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(one.features, other.features, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_projected_features_are_what_the_decoder_is_given(loaded, family):
    model = loaded(family)
    pictures = pictures_of(model, WIDE)
    states = states_of(model, pictures)
    given = torch.stack(model.family.features(model.model.model, pictures))
    torch.testing.assert_close(states.project(states.features), given, atol=1e-5, rtol=1e-5)
    assert (states.cls is not None) == (family in PLAIN)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "vipllava"])
def test_the_attention_of_cls_is_the_stock_towers(loaded, family, monkeypatch):
    model = loaded(family)
    pictures = pictures_of(model, WIDE)
    states = states_of(model, pictures)
    for layer, one_head in ((-1, False), (0, False), (-1, True)):
        rows = eager_attention(model, pictures, monkeypatch, one_head)
        expected = torch.stack(rows[layer])[:, :, 0, 1:]
        torch.testing.assert_close(states.cls_attention(layer, one_head), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "family", ["llava_next", "llava_onevision", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3"]
)
def test_a_tokens_key_is_the_mean_of_its_patches_keys(loaded, mixtures_of, family):
    model, special = loaded(family), int(family in WITH_CLS)
    pictures = pictures_of(model, WIDE)
    kept, layer = [], layers_of(model)[-1]
    attention = tower_attention(layer)
    projection = attention.k_proj if hasattr(attention, "k_proj") else attention.qkv
    handle = projection.register_forward_hook(lambda module, args, output: kept.append(output))
    states = states_of(model, pictures)
    handle.remove()
    keys = kept[0] if hasattr(attention, "k_proj") else kept[0].chunk(3, -1)[1]
    keys = keys[:, special:].flatten(0, 1) if keys.ndim == 3 else keys
    for found, shares in zip(states.keys(-1), mixtures_of(family, "wide"), strict=True):
        torch.testing.assert_close(found.flatten(1), shares @ keys, atol=1e-5, rtol=1e-4)


def test_a_layer_that_sees_windows_stands_for_the_next_that_sees_all(loaded):
    model = loaded("qwen2_5_vl")
    assert model.model.config.vision_config.fullatt_block_indexes == [1]
    states = states_of(model, pictures_of(model, WIDE))
    assert torch.equal(states.cls_attention(0), states.cls_attention(1))
    other = loaded("qwen2_vl")
    states = states_of(other, pictures_of(other, WIDE))
    assert not torch.equal(states.cls_attention(0), states.cls_attention(1))


@torch.no_grad()
def test_received_attention_averages_over_the_queries_in_blocks_and_under_a_mask():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 300, 3, 4, generator=generator)
    weights = torch.einsum("bqhd,bkhd->bhqk", query, key).mul(0.5)
    torch.testing.assert_close(received_attention(query, key), weights.softmax(-1).mean(2), atol=1e-6, rtol=1e-5)
    seen = torch.rand(2, 1, 300, 300, generator=generator) > 0.3
    expected = weights.masked_fill(~seen, -torch.inf).softmax(-1).mean(2)
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    for mask in (seen, added):
        torch.testing.assert_close(received_attention(query, key, mask), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        received_attention(query, key, seen[:, :, :1]),
        weights.masked_fill(~seen[:, :, :1], -torch.inf).softmax(-1).mean(2),
        atol=1e-6,
        rtol=1e-5,
    )


@torch.no_grad()
def test_a_layer_computed_from_its_parts_is_the_stock_layer(loaded):
    for family in ("llava", "llava_onevision", "idefics3"):
        states = states_of(loaded(family), pictures_of(loaded(family), WIDE))
        for layer, entering in zip(states.layers, states.entering, strict=True):
            expected = layer(entering, attention_mask=None)
            torch.testing.assert_close(run_layer(layer, entering)[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_method_that_needs_cls_is_refused_by_name_where_there_is_none(loaded):
    model = loaded("qwen2_vl")
    message = r"^method 'flowcut': needs a vision tower with one \[CLS\], as in LLaVA-1.5$"
    with pytest.raises(TokenselError, match=message), reduce_tokens(model.model, "flowcut", kept=4):
        model.model(**model.prepare(WIDE))


def test_a_feature_layer_that_does_not_exist_is_named():
    model = tiny_llava()
    model.config.vision_feature_layer = -9
    tap = VisionTap(model.model, family_of(model.config))
    handles = tap.attach()
    model.model.vision_tower(llava_inputs(model)["pixel_values"])
    for handle in handles:
        handle.remove()
    with pytest.raises(TokenselError, match=r"^vision_feature_layer=-9: must be from -3 to 2"):
        tap.take({})
    assert tap.take({}) is None


def test_cls_among_the_visual_tokens_is_refused():
    model = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(TokenselError, match=r"^vision_feature_select_strategy=full: must be 'default'"):
        VisionTap(model.model, family_of(model.config))
