"""Every family through one matrix: nothing changed where nothing is removed, cached as recomputed, batched as alone."""

import warnings
from dataclasses import replace

import pytest
import torch
from helpers.evaluation import assert_same_predictions, evaluate_points
from helpers.families import (
    FAMILIES,
    FAMILY_METHODS,
    QUESTIONS,
    WITH_CLS,
    load_family,
    make_picture,
    make_question,
)
from helpers.methods import kept_of

from tokensel import METHODS, TokenselError, reduce_tokens
from tokensel.data import Question
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import make_stages
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import load_model
from tokensel.models.families import ALONG_PROMPT, COMPANIONS, family_of
from tokensel.models.families import FAMILIES as ADAPTERS

NEW = 3
PADDED = (0, 2)  # rows of the questions that are shorter than the longest
# Gathers by attention, ranks by attention, looks at the tower, merges, has stages.
KINDS = ("fps", "fastv", "fastervlm", "tome_merge", "pyramiddrop")


def new(loaded):
    # A random model may well write the image token, on which a stock one fails without a cache.
    suppressed = {"suppress_tokens": [loaded.model.config.image_token_id]}
    return {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None} | suppressed


@pytest.fixture(scope="module")
def loaded():
    return load_family


def row_of(loaded, inputs, row):
    """One row of a left-padded batch, its padding cut off."""
    start = int((inputs["attention_mask"][row] == 0).sum())
    along = {
        name: inputs[name][row : row + 1, start:]
        for name in ("input_ids", "attention_mask", *ALONG_PROMPT)
        if name in inputs
    }
    pictures = {name: value for name, value in inputs.items() if name not in along}
    pictures |= loaded.family.companions(inputs["input_ids"] == loaded.image_token_id, pictures)
    taken = loaded.family.take(pictures, [row])
    return along | {name: value for name, value in taken.items() if name not in COMPANIONS}


def test_every_adapter_has_a_checkpoint_here():
    assert set(FAMILIES) == set(ADAPTERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_each_family_sees_its_picture(loaded, family):
    model = loaded(family)
    inputs = model.prepare(QUESTIONS)
    count = model.picture_shape(QUESTIONS[0].load_image())[:1] or (model.num_image_tokens,)
    assert set((inputs["input_ids"] == model.model.config.image_token_id).sum(1).tolist()) == set(count)
    with torch.no_grad():
        others = [replace(question, image=make_picture(seed=9)) for question in QUESTIONS]
        assert not torch.allclose(model.model(**inputs).logits, model.model(**model.prepare(others)).logits)


@pytest.mark.sampled
@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changes_bit_for_bit_where_nothing_is_removed(loaded, family):
    model = loaded(family).model
    inputs = loaded(family).prepare(QUESTIONS)
    plain, written = model(**inputs).logits, model.generate(**inputs, **new(loaded(family)))
    for settings in ({"kept": 10_000, "agg_layer": 2}, {"kept": 4, "agg_layer": 4}):
        with warnings.catch_warnings(), reduce_tokens(model, "fps", **settings):
            warnings.simplefilter("ignore")
            assert torch.equal(model(**inputs).logits, plain)
            assert torch.equal(model.generate(**inputs, **new(loaded(family))), written)
    assert torch.equal(model(**inputs).logits, plain)


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_decodes_with_a_cache_as_without_and_batched_as_alone(loaded, family, method):
    model = loaded(family).model
    inputs = loaded(family).prepare(QUESTIONS)
    keys = row_keys(QUESTIONS, model.device)
    with reduce_tokens(model, method, kept=4, row_keys=keys) as record:
        together = model(**inputs).logits[:, -1]
        chosen = record.positions
        cached = model.generate(**inputs, **new(loaded(family)))
        assert torch.equal(cached, model.generate(**inputs, **new(loaded(family)), use_cache=False))
    assert not torch.equal(together, model(**inputs).logits[:, -1])
    for row in PADDED:
        with reduce_tokens(model, method, kept=4, row_keys=keys[row : row + 1]) as record:
            alone = row_of(loaded(family), inputs, row)
            torch.testing.assert_close(model(**alone).logits[0, -1], together[row], atol=1e-4, rtol=1e-4)
            assert record.positions[0].tolist() == chosen[row].tolist()
    # The last one still: it is neither the longest prompt nor the shortest.
    with reduce_tokens(model, method, kept=4, row_keys=keys[-1:]):
        assert torch.equal(model.generate(**alone, **new(loaded(family)))[0, -NEW:], cached[-1, -NEW:])


@pytest.fixture(scope="module")
def embedded(loaded):
    """The family's model in pieces, and its prompts about to enter the first layer: together, and alone."""
    made = {}

    def of(family):
        if family not in made:
            split, inputs = SplitModel(loaded(family).model), loaded(family).prepare(QUESTIONS)
            keys = row_keys(QUESTIONS, loaded(family).model.device)
            alone = [
                split.embed(**row_of(loaded(family), inputs, row), row_keys=keys[row : row + 1], uses_vision=True)
                for row in PADDED
            ]
            made[family] = split, split.embed(**inputs, row_keys=keys, uses_vision=True), alone
        return made[family]

    return of


# Methods that look at the vision tower in all families, each other method in two or three.
CASES = [
    (family, method)
    for family, method in FAMILY_METHODS
    if METHODS[method].uses_vision or (FAMILIES.index(family) + sorted(METHODS).index(method)) % 3 == 0
]


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize(("family", "method"), CASES)
def test_every_method_chooses_alike_batched_and_alone(embedded, family, method):
    split, prompts, alone = embedded(family)
    stages = make_stages(method, kept=kept_of(method), num_layers=split.num_layers)
    together = split.reduce_all(prompts, stages)
    logits = split.logits(together)
    assert (method == "full") == torch.equal(logits, split.logits(prompts))
    for row, prompt in zip(PADDED, alone, strict=True):
        single = split.reduce_all(prompt, stages)
        torch.testing.assert_close(split.logits(single)[0], logits[row], atol=1e-4, rtol=1e-4)
        if together.positions is not None:
            assert single.positions[0].tolist() == together.positions[row].tolist()


@pytest.mark.sampled
@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_in_pieces_gives_what_the_hooks_give(loaded, family):
    model = loaded(family).model
    inputs = loaded(family).prepare(QUESTIONS)
    split = SplitModel(model)
    for method, settings in (
        ("fps", {"agg_layer": 0}),
        ("fastv", {"agg_layer": 2}),
        ("grid", {"agg_layer": 1, "position": "renumber"}),
        ("tome_merge", {"agg_layer": 0}),
        ("tome_merge", {"agg_layer": 1, "position": "renumber"}),
    ):
        with reduce_tokens(model, method, kept=4, **settings):
            hooked = model(**inputs).logits[:, -1]
        stages = make_stages(method, kept=4, num_layers=split.num_layers, **settings)
        pieces = split.logits(split.reduce_all(split.embed(**inputs), stages))
        torch.testing.assert_close(pieces, hooked, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(WITH_CLS)))
def test_methods_that_need_one_cls_are_refused_where_there_is_none(loaded, family):
    inputs = loaded(family).prepare(QUESTIONS[:1])
    for method in (name for name in sorted(METHODS) if METHODS[name].needs_cls):
        message = rf"^method '{method}': needs a vision tower with one \[CLS\], as in LLaVA-1.5$"
        with pytest.raises(TokenselError, match=message), reduce_tokens(loaded(family).model, method, kept=4):
            loaded(family).model(**inputs)


@pytest.mark.sampled
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_any_shape_are_evaluated_alike_in_every_batch(loaded, family, tmp_path):
    sizes = [(100, 60), (60, 100), (56, 56), (100, 60), (200, 50), (60, 100)]
    asked = [make_question(f"q{place}", place % 3 + 1, size) for place, size in enumerate(sizes)]
    asked.append(Question(id="blind", text="what?", choices=("red", "teal"), answer=1, image=None))
    points = [
        GridPoint("full"),
        GridPoint("fps", 4),
        GridPoint("fastv", 4),
        GridPoint("pool", 4, 1),
        GridPoint("fastervlm", 4),
    ]
    found = {}
    for size in (1, 7):
        ordered = asked[::-1] if size == 1 else asked
        found[size], failures = evaluate_points(loaded(family), tmp_path / str(size), ordered, points, batch_size=size)
        assert not failures
    assert found[1][0].keys() == {each.id for each in asked}
    assert_same_predictions(found[1], found[7])


def test_an_unknown_family_is_refused_unless_it_is_said_which_it_is_like(tmp_path):
    class Config:
        model_type = "unheard_of"

    with pytest.raises(TokenselError, match=r"^model_type=unheard_of: not tested; allowed are llava, .* family="):
        family_of(Config())
    assert family_of(Config(), "llava") is ADAPTERS["llava"]
    with pytest.raises(TokenselError, match=r"^family=lava: not tested; allowed are llava, "):
        family_of(Config(), "lava")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(TokenselError, match=r"model_type=bert: not tested; allowed are llava, vipllava, .* family="):
        load_model(tmp_path)
