"""Gemma 3 against the same run by hand: stock layers one by one, with masks, rotary and positions of our own.

A picture's tokens see each other both ways, also those that remain of it; the window counts what stands in the
sequence, and is shorter here than the picture.
"""

import pytest
import torch
from helpers.families import QUESTIONS, load_family, make_picture, save_family
from helpers.gemma3_by_hand import NEW, TOKENS, ByHand, Given, Unequal

from tokensel import TokenselError, make_stages, reduce_tokens
from tokensel.data import Question
from tokensel.engine.source import StateSource
from tokensel.engine.split import SplitModel
from tokensel.models import load_model

LAYERS = 4


@pytest.fixture(scope="module")
def loaded():
    return load_family("gemma3")


def several(id, words):
    pictures = [make_picture(seed=sum(map(ord, id)) + more) for more in range(2)]
    text = "<image> and " + "what? " * words + "<image> so?"
    return Question(id=id, text=text, choices=("red", "teal"), answer=0, image=pictures)


ALONE = [5, 14, 3, 8, 0, 11, 9, 2]
AGAIN = [4, 1, 6]
TWICE = [7, 2, 12, 3]
# One picture of 16 tokens: what is kept at which layer. Layers 1 and 2 have windows.
STAGES = {
    "first": {0: [ALONE]},
    "second": {1: [ALONE]},
    "third": {2: [ALONE]},
    "last": {3: [ALONE]},
    "first and third": {0: [ALONE], 2: [AGAIN]},
    "all four": {0: [ALONE], 1: [[6, 1, 4, 3, 0]], 2: [[0, 2, 3]], 3: [[1]]},
}
WAYS = [
    ("compact", "source", False),
    ("compact", "front", False),
    ("compact", "renumber", False),
    ("compact", "source", True),
    ("zero_fill", "front", True),
    ("mask", "source", False),
]
CASES = [(name, WAYS[0]) for name in STAGES] + [(name, way) for name in ("second", "all four") for way in WAYS[1:]]


def options_of(stages, layout, position, merges):
    kept = [sum(map(len, each)) for each in stages.values()]
    method = Given({layer: each[0] for layer, each in stages.items()}, merges)
    options = {"kept": kept, "agg_layer": list(stages), "layout": layout, "position": position}
    return method, options | {"aggregation": "none"}


def rows_of(loaded, inputs):
    """ids and pictures of each row, its padding cut off."""
    per_row = len(inputs["pixel_values"]) // len(inputs["input_ids"])
    for row, pixels in enumerate(inputs["pixel_values"].unflatten(0, (-1, per_row))):
        yield inputs["input_ids"][row][inputs["attention_mask"][row].bool()], pixels


def generated(loaded, inputs, **more):
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    options |= {"suppress_tokens": [loaded.model.config.image_token_id]}
    written = loaded.model.generate(**inputs, **options | more, return_dict_in_generate=True, output_scores=True)
    return written.sequences[:, -NEW:], torch.stack(written.scores, 1)


def compare(loaded, questions, stages, way, **more):
    inputs = loaded.prepare(questions)
    method, options = options_of(stages, *way)
    oracle = ByHand(loaded, stages, *way)
    expected = [oracle.greedy(*row) for row in rows_of(loaded, inputs)]
    with reduce_tokens(loaded.model, method, **options), torch.no_grad():
        logits = loaded.model(**inputs).logits[:, -1]
        written, scores = generated(loaded, inputs, **more)
    for row, (ids, each) in enumerate(expected):
        ruled_out = each.isinf()
        torch.testing.assert_close(logits[row].masked_fill(ruled_out[0], -torch.inf), each[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores[row], each, atol=1e-4, rtol=1e-4)
        assert torch.equal(written[row], ids)
    stages = make_stages(method, num_layers=LAYERS, **options)
    split = SplitModel(loaded.model)
    pieces = split.logits(split.reduce_all(split.embed(**inputs), stages))
    torch.testing.assert_close(pieces, logits, atol=1e-4, rtol=1e-4)


def test_the_checkpoint_is_one_that_can_tell(loaded):
    config = loaded.model.config.text_config
    assert config.sliding_window < TOKENS
    assert set(config.layer_types[:3]) == {"full_attention", "sliding_attention"}
    lengths = loaded.prepare(QUESTIONS)["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) == len(QUESTIONS)
    stock = loaded.model(**loaded.prepare(QUESTIONS[:1])).logits[0]
    ((ids, pixels),) = rows_of(loaded, loaded.prepare(QUESTIONS[:1]))
    torch.testing.assert_close(ByHand(loaded, {}).logits(ids, pixels, len(ids)), stock, atol=1e-4, rtol=1e-4)


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_left_padded_batch_equals_the_run_by_hand_also_under_generate(loaded, name, way):
    compare(loaded, QUESTIONS[:2], STAGES[name], way)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "mode",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=lambda mode: next(iter(mode)),
)
@pytest.mark.parametrize("name", ["first", "second", "first and third"])
def test_other_ways_to_generate_equal_the_run_by_hand(loaded, name, mode):
    questions = QUESTIONS[:1] if "prompt_lookup_num_tokens" in mode else QUESTIONS[:2]
    compare(loaded, questions, STAGES[name], ("compact", "source", False), **mode)


@pytest.mark.sampled
@pytest.mark.parametrize("layer", range(LAYERS))
def test_what_remains_of_each_of_two_pictures_sees_itself_both_ways_and_not_the_other(loaded, layer):
    questions = [several("a", 1), several("b", 3)]
    compare(loaded, questions, {layer: [TWICE, TWICE]}, ("compact", "source", False))
    if layer == 1:
        compare(loaded, questions, {layer: [TWICE, TWICE]}, ("compact", "source", False), use_cache=False)


def test_rows_that_keep_unequal_numbers_equal_their_own_runs_by_hand(loaded):
    inputs, counts = loaded.prepare(QUESTIONS), [8, 3, 5]
    method = Unequal({1: ALONE}, counts=tuple(counts))
    with reduce_tokens(loaded.model, method, kept=8, agg_layer=1), torch.no_grad():
        logits = loaded.model(**inputs).logits[:, -1]
        written, _ = generated(loaded, inputs)
        again, _ = generated(loaded, inputs, use_cache=False)
    assert torch.equal(written, again)
    for row, (ids, pixels) in enumerate(rows_of(loaded, inputs)):
        oracle = ByHand(loaded, {1: [ALONE[: counts[row]]]})
        torch.testing.assert_close(logits[row], oracle.logits(ids, pixels, len(ids))[-1], atol=1e-4, rtol=1e-4)
        assert torch.equal(written[row], oracle.greedy(ids, pixels)[0])


@torch.no_grad()
def test_without_token_types_the_model_sees_earlier_tokens_only_and_so_does_what_remains(loaded):
    inputs = loaded.prepare(QUESTIONS[:2])
    both_ways, _ = loaded.model(**inputs).logits, inputs.pop("token_type_ids")
    stock = loaded.model(**inputs).logits
    assert not torch.allclose(stock, both_ways)
    method, options = options_of(STAGES["second"], "compact", "source", False)
    oracle = ByHand(loaded, STAGES["second"])
    oracle.mask = lambda window: causal(oracle, window)
    with reduce_tokens(loaded.model, method, **options):
        logits = loaded.model(**inputs).logits[:, -1]
    for row, (ids, pixels) in enumerate(rows_of(loaded, inputs)):
        torch.testing.assert_close(logits[row], oracle.logits(ids, pixels, len(ids))[-1], atol=1e-4, rtol=1e-4)


def causal(oracle, window):
    oracle.block = torch.full_like(oracle.block, -1)
    return ByHand.mask(oracle, window)


@pytest.mark.sampled
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_nothing_changes_bit_for_bit_where_all_are_kept(loaded, attention, monkeypatch):
    model, inputs = loaded.model, loaded.prepare([several("a", 1), several("b", 3)])
    for config in (model.config.text_config, model.model.language_model.config):
        monkeypatch.setattr(config, "_attn_implementation_internal", attention)
    with torch.no_grad():
        plain, written = model(**inputs).logits, generated(loaded, inputs)
        for layer in (0, 2):
            with reduce_tokens(model, "random", kept=2 * TOKENS, agg_layer=layer):
                assert torch.equal(model(**inputs).logits, plain)
                found = generated(loaded, inputs)
            assert all(map(torch.equal, found, written))


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 3])
def test_attention_rows_are_those_of_the_stock_layer_in_its_window_and_both_ways(loaded, layer, monkeypatch):
    inputs, model = loaded.prepare(QUESTIONS), loaded.model
    state = SplitModel(model).run(SplitModel(model).embed(**inputs), layer)
    monkeypatch.setattr(model.model.language_model.config, "_attn_implementation_internal", "eager")
    stock = model(**inputs, output_attentions=True).attentions
    source = StateSource(state, 0, Given(), SplitModel(model).parts)
    for which, number in (("previous", layer - 1), ("next", layer)):
        for queries in ("last", "text", "image"):
            found = source.attention(queries, None, which)
            for row, start in enumerate((inputs["attention_mask"] == 0).sum(1).tolist()):
                rows = stock[number][row][:, start:, start:]
                visual = (inputs["input_ids"][row, start:] == loaded.image_token_id).nonzero()[:, 0]
                behind = torch.arange(visual[-1] + 1, rows.shape[1])
                asked = {"last": behind[-1:], "text": behind, "image": visual}[queries]
                expected = rows[:, asked][:, :, visual].sum(1)
                torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_flash_attention_is_refused_because_it_takes_no_such_mask(loaded, tmp_path, monkeypatch):
    message = (
        "^attn_implementation=flash_attention_2: takes no mask by which a picture's tokens see each other both ways"
    )
    with pytest.raises(TokenselError, match=message):
        load_model(save_family("gemma3", tmp_path), attn_implementation="flash_attention_2")
    monkeypatch.setattr(loaded.model.model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(TokenselError, match=message):
        reduce_tokens(loaded.model, "fps", kept=4)


def test_methods_that_weigh_tokens_by_size_are_refused(loaded):
    inputs = loaded.prepare(QUESTIONS[:1])
    message = r"^sliding_window: methods that weigh tokens by size need full attention in every layer$"
    reducing = reduce_tokens(loaded.model, "tome_merge", kept=4, proportional=True)
    with pytest.raises(TokenselError, match=message), reducing:
        loaded.model(**inputs)
