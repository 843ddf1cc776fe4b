"""Several stages, positions that close up and keys that weigh more: on tiny random models, hooks against pieces."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.methods import left_of
from helpers.models import IMAGE_TOKEN, llava_inputs, single_row, tiny_llava

from tokensel import Method, Selection, TokenselError, make_stages, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import default_layers
from tokensel.methods import HiMAP, PyramidDrop, SparseVLM

TEXTS = (5, 9, 2)
SETTINGS = [
    {"method": "himap", "kept": (20, 5), "agg_layer": (1, 3)},
    {"method": "himap", "kept": (20, 5), "agg_layer": (1, 2), "cut_off_layer": 3},
    {"method": "pyramiddrop", "kept": (20, 10, 5), "agg_layer": (0, 1, 2)},
    {"method": "sparsevlm", "kept": (24, 20), "agg_layer": (1, 3)},
    {"method": "fps", "kept": (20, 5), "agg_layer": (0, 2)},
    {"method": "tome_merge", "kept": 9, "agg_layer": 2, "proportional": True},
    {"method": "tome_merge", "kept": 9, "agg_layer": 0, "proportional": True},
    {"method": "tome_merge", "kept": (20, 9), "agg_layer": (0, 2), "proportional": True},
    {"method": "tome_merge", "kept": 9, "agg_layer": 2, "proportional": True, "layout": "zero_fill"},
    {"method": "tome_merge", "kept": 9, "agg_layer": 2, "proportional": True, "position": "renumber"},
    {"method": "fps", "kept": 6, "agg_layer": 2, "position": "renumber"},
    {"method": "random", "kept": 6, "agg_layer": 0, "position": "renumber"},
]


def settings(setting):
    return pytest.mark.parametrize("setting", setting, ids=lambda s: "-".join(map(str, s.values())))


@settings(SETTINGS)
@torch.no_grad()
def test_hooks_equal_the_model_in_pieces_and_a_cache_equals_recomputing(setting):
    model = tiny_llava()
    inputs = llava_inputs(model, TEXTS)
    split = SplitModel(model)
    expected = split.logits(split.reduce_all(split.embed(**inputs), make_stages(**setting)))
    new = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with reduce_tokens(model, **setting):
        torch.testing.assert_close(model(**inputs).logits[:, -1], expected, atol=1e-4, rtol=1e-4)
        cached = model.generate(**inputs, **new)
        assert torch.equal(cached, model.generate(**inputs, **new, use_cache=False))
        for row in range(len(TEXTS)):
            assert torch.equal(cached[row, -5:], model.generate(**single_row(inputs, row), **new)[0, -5:])


@torch.no_grad()
def test_closed_up_positions_are_those_of_a_picture_that_was_small_from_the_start():
    model = tiny_llava()
    inputs = single_row(llava_inputs(model, TEXTS), 1)
    split = SplitModel(model)
    state = split.embed(**inputs)
    with reduce_tokens(model, "divprune", kept=6) as record:
        ours = model(**inputs).logits[:, -1]
    text = (inputs["input_ids"][0] != IMAGE_TOKEN).nonzero()[:, 0]
    stay = torch.cat([text, record.indices[0]]).sort().values
    short = model.language_model if hasattr(model, "language_model") else model.model.language_model
    hidden = short(inputs_embeds=state.hidden[:, stay]).last_hidden_state
    torch.testing.assert_close(ours, model.lm_head(hidden[:, -1]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_size_of_two_weighs_like_the_same_key_twice():
    # Two identical visual tokens merge into one of size 2: the last token must see what it saw of both.
    model = tiny_llava(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
    decoder = model.model.language_model
    embeds = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
    embeds[:, 3] = embeds[:, 2]
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[:, 2:6] = True
    positions = torch.tensor([[0, 1, 2, 2, 4, 5, 6, 7, 8]])
    ones = torch.ones(1, 9, dtype=torch.long)
    whole = decoder(inputs_embeds=embeds, position_ids=positions, attention_mask=ones).last_hidden_state[:, -1]
    outputs = []
    for proportional in (True, False):
        with reduce_tokens(decoder, "tome_merge", kept=3, agg_layer=0, proportional=proportional, image_mask=mask):
            merged = decoder(inputs_embeds=embeds, position_ids=positions, attention_mask=ones)
            outputs.append(merged.last_hidden_state[:, -1])
    torch.testing.assert_close(outputs[0], whole, atol=1e-4, rtol=1e-4)
    assert (outputs[1] - whole).abs().max() > 1e-3


def test_layers_of_the_papers_move_down_in_proportion_in_shallow_decoders():
    assert default_layers(HiMAP(), 32) == [2, 8]
    assert default_layers(PyramidDrop(), 8) == [2, 4, 6]
    assert default_layers(SparseVLM(), 8) == [1, 2, 4]
    assert default_layers(HiMAP(), 4) == [1, 2]


def test_one_kept_for_several_stages_is_what_remains_after_the_last():
    assert [stage.kept_of(576) for stage in make_stages("himap", kept=72)] == [288, 72]
    assert [stage.kept_of(576) for stage in make_stages("pyramiddrop", kept=72)] == [288, 144, 72]
    assert [stage.kept_of(576) for stage in make_stages("himap", kept=400)] == [576, 400]


@torch.no_grad()
@pytest.mark.parametrize("layout", ["zero_fill", "mask"])
def test_emptied_and_masked_places_of_the_picture_are_not_taken_for_text(layout):
    seen = []

    @dataclass
    class Reader(Method):
        name: ClassVar[str] = "reader"
        default_layers: ClassVar[tuple[int, ...]] = (1, 2)

        def select(self, context):
            seen.append((context.text.shape[1], context.text_mask.sum(1).tolist(), context.inputs[1].shape[1]))
            return Selection(torch.arange(context.kept).expand(context.tokens.shape[0], -1))

    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    with reduce_tokens(model, Reader(), kept=(12, 4), agg_layer=(1, 2), layout=layout):
        model(**inputs)
    assert seen == [(3 + 9, [5, 9], 3 + 9)] * 2


@torch.no_grad()
@pytest.mark.parametrize("layout", ["compact", "zero_fill"])
def test_sparsevlms_three_stages_run_in_every_layout(layout):
    model = tiny_llava()
    with reduce_tokens(model, "sparsevlm", kept=8, layout=layout) as record:
        assert torch.isfinite(model(**llava_inputs(model, (5, 9))).logits).all()
    stages = make_stages("sparsevlm", kept=8, num_layers=4)
    assert record.positions.shape == (2, left_of(stages, 36)) == (2, 9)


@pytest.mark.parametrize(("kept", "found"), [("25%", 144), (0.25, 144), ("33.3%", 192), ("0.01%", 1), (64, 64)])
def test_kept_is_a_count_or_a_share_of_what_the_picture_has(kept, found):
    (stage,) = make_stages("fps", kept=kept)
    assert stage.kept_of(576) == found
    assert stage.kept_of(36) == {144: 9, 192: 12}.get(found, found)


def test_a_list_of_shares_has_one_for_each_stage_and_a_schedule_ends_in_a_share():
    several = make_stages("fps", kept=["50%", 0.25, 100], agg_layer=[2, 4, 6])
    assert [stage.kept_of(576) for stage in several] == [288, 144, 100]
    assert [stage.kept_of(576) for stage in make_stages("pyramiddrop", kept="12.5%")] == [288, 144, 72]


@pytest.mark.parametrize("kept", ["0%", "100%", "150%", 1.5, 0.0, 1.0, -0.1, "-5%", "25", "x%", "nan%", True, None])
def test_a_kept_that_is_neither_a_count_nor_a_share_is_refused_in_one_line(kept):
    with pytest.raises(TokenselError, match=r"^kept=.*(must be|must lie)[^\n]*$"):
        make_stages("fps", kept=kept)


def test_shares_must_not_grow_from_stage_to_stage():
    with pytest.raises(TokenselError, match=r"kept=\[25%, 50%\]: must not grow"):
        make_stages("fps", kept=["25%", "50%"], agg_layer=[2, 4])


@torch.no_grad()
def test_a_share_is_taken_of_every_picture_in_proportion():
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    with reduce_tokens(model, "fps", kept="25%") as record:
        model(**inputs)
    share, count = record.positions, model.config.vision_config.image_size // model.config.vision_config.patch_size
    with reduce_tokens(model, "fps", kept=count**2 // 4) as record:
        model(**inputs)
    assert torch.equal(share, record.positions)
