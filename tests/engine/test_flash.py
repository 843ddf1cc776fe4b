"""The flash attention path without a GPU: a function in its place is given what it would be, checks that, and computes
the same on the CPU. Its results equal those of sdpa."""

import copy

import pytest
import torch
from helpers.methods import kept_of
from helpers.models import llava_inputs, tiny_llava
from transformers import MistralConfig, MistralForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_flash_attention_utils import _is_packed_sequence, prepare_fa_kwargs_from_position_ids
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokensel import METHODS, TokenselError, make_stages, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.writing import Writer

NAME = "flash_attention_for_a_test"
TEXTS = (5, 9)
NEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
CASES = [
    ("fps", {"kept": 8}),
    ("fastv", {"kept": 8}),
    ("fastv", {"kept": 8, "layout": "mask"}),
    ("fps", {"kept": 8, "agg_layer": 0, "layout": "zero_fill"}),
    ("grid", {"kept": 9, "agg_layer": 1, "position": "renumber"}),
    ("pyramiddrop", {"kept": 3, "agg_layer": [0, 2, 3]}),
    ("himap", {"kept": 5, "agg_layer": [1, 2]}),
    ("no_image", {}),
]
calls = []


def attend(module, query, key, value, attention_mask, scaling=None, sliding_window=None, dropout=0.0, **given):
    """What flash attention computes: causal, the last query sees the last key; a 2-D mask is what is padding; without
    one, transformers' own functions say whether one row is several packed sequences."""
    batch, _, queries, _ = query.shape
    keys = key.shape[2]
    assert attention_mask is None or attention_mask.shape == (batch, keys)
    positions = given.get("position_ids")
    row, column = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None]
    seen = (column <= row)[None].expand(batch, -1, -1)
    if sliding_window is not None:
        seen = seen & (column > row - sliding_window)
    if attention_mask is not None:
        seen = seen & attention_mask.bool()[:, None]
    elif _is_packed_sequence(positions, batch):
        ends = prepare_fa_kwargs_from_position_ids(positions)[0][0]
        assert queries == keys == int(ends[-1])
        own = torch.bucketize(torch.arange(keys), ends[1:-1], right=True)
        seen = seen & (own[:, None] == own[None])
    calls.append((queries, keys, attention_mask is not None))
    share = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(share, 1) for each in (key, value))
    logits = (query @ key.transpose(2, 3)).float() * scaling
    weights = logits.masked_fill(~seen[:, None], torch.finfo(torch.float32).min).softmax(-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def flash(monkeypatch):
    """Gives a model whose decoder attends by `attend`."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, NAME, attend)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, NAME, flash_attention_mask)
    calls.clear()

    def of(model):
        model = copy.deepcopy(model)
        decoder = model.model.language_model if hasattr(model.model, "language_model") else model.model
        decoder.config._attn_implementation_internal = NAME
        return model

    return of


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize(("method", "settings"), CASES)
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1]], ids=["padded", "alone"])
def test_a_reduced_prompt_and_what_follows_it_equal_those_under_sdpa(flash, method, settings, texts):
    plain = tiny_llava()
    other, inputs = flash(plain), llava_inputs(plain, texts)
    found = []
    for model in (plain, other):
        with reduce_tokens(model, method, **settings) as record:
            logits = model(**inputs).logits[:, -1]
            chosen = record.positions
            written = [model.generate(**inputs, **NEW, use_cache=cached).tolist() for cached in (True, False)]
        split = SplitModel(model)
        stages = make_stages(method, num_layers=4, **settings)
        pieces = split.logits(split.reduce_all(split.embed(**inputs), stages))
        writer = Writer(split)
        text, _ = writer.greedy(writer.begin(split.embed(**inputs), 3), stages, 3, [], 0)
        found.append((logits, pieces, chosen, written, text.tolist()))
    for one, two in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-4)
    assert found[0][2] is None or torch.equal(found[0][2], found[1][2])
    assert found[0][3:] == found[1][3:]
    assert any(queries > 1 for queries, _, _ in calls)
    assert any(queries == 1 for queries, _, _ in calls)


@torch.no_grad()
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1]], ids=["padded", "alone"])
def test_windows_reach_it_and_count_what_remains(flash, texts):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=97, num_key_value_heads=2, sliding_window=9, initializer_range=0.2, **sizes)
    plain = MistralForCausalLM(config).eval()
    other, inputs = flash(plain), llava_inputs(tiny_llava(), texts)
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    image_mask = prompt["input_ids"] == 3
    found = []
    for model in (plain, other):
        with reduce_tokens(model, "grid", kept=9, agg_layer=1, image_mask=image_mask):
            found.append((model(**prompt).logits[:, -1], model.generate(**prompt, **NEW).tolist()))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=1e-4)
    assert found[0][1] == found[1][1]


@torch.no_grad()
def test_positions_that_begin_anew_would_cut_the_sequence_and_a_gap_does_not(flash):
    """That the function in place of flash attention can tell."""
    plain = tiny_llava().model.language_model
    other, inputs = flash(tiny_llava()).model.language_model, torch.randn(1, 6, 32)
    for places, same in (([0, 1, 2, 5, 6, 7], True), ([0, 1, 2, 0, 1, 2], False)):
        given = {"inputs_embeds": inputs, "position_ids": torch.tensor([places])}
        found = other(**given).last_hidden_state
        whole = plain(**given, attention_mask=torch.ones(1, 6)).last_hidden_state
        assert torch.allclose(found, whole, atol=1e-5) == same


@torch.no_grad()
def test_methods_that_weigh_tokens_by_size_are_refused(flash):
    model = flash(tiny_llava())
    message = r"^attn_implementation: methods that weigh tokens by size need sdpa or eager$"
    with pytest.raises(TokenselError, match=message), reduce_tokens(model, "tome_merge", kept=4, proportional=True):
        model(**llava_inputs(model, TEXTS))


@torch.no_grad()
@pytest.mark.parametrize("method", [name for name in sorted(METHODS) if METHODS[name].uses_attention])
def test_methods_that_look_at_attention_choose_alike_under_it(flash, method):
    plain = tiny_llava()
    inputs, found = llava_inputs(plain, TEXTS), []
    for model in (plain, flash(plain)):
        with reduce_tokens(model, method, kept=kept_of(method, 8)) as record:
            model(**inputs)
        found.append(record.positions)
    assert torch.equal(*found)
