"""Rows that keep unequal numbers of visual tokens, tokens that are not the picture's, and other counts than kept."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from helpers.by_hand import by_hand
from helpers.graphs import CpuCapture, uncompiled_split
from helpers.models import IMAGE_TOKEN, llava_inputs, single_row, tiny_llava
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tokensel import Method, Selection, TokenselError, make_stages, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.writing import Writer
from tokensel.functional import rank, take

VISUAL = 36
TEXTS = (5, 9, 2, 7)
KEYS = torch.tensor([3, 11, 7, 11])
STEPS = 3
NEW = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None}
# Layouts with the positions that they allow.
WAYS = [
    ("compact", "source"),
    ("compact", "front"),
    ("compact", "renumber"),
    ("zero_fill", "source"),
    ("zero_fill", "front"),
    ("mask", "source"),
]


@dataclass
class Varying(Method):
    """Keeps as many tokens as the question's key says, and half of these in a second stage: those that score highest by
    the previous layer. Sees itself that no padding is among what it is given.

    width: how many columns the selection has more than its largest row. merges: survivors carry twice their state.
    sizes: they weigh 3.
    """

    name: ClassVar[str] = "varying"
    uses_attention: ClassVar[bool] = True

    width: int = 0
    merges: bool = False
    sizes: bool = False
    outsider: bool = False

    def remaining(self, kept, count, layer=0, stage=0):
        return None

    def select(self, context):
        if context.stage == 1:
            assert context.row_keys.unique().tolist() == [context.count]
            assert context.tokens.shape[1] == context.attention("image").shape[2] == context.count
        counts = context.row_keys // (context.stage + 1)
        attention = context.attention()
        score = context.tokens.norm(dim=-1) if attention is None else attention.mean(1)
        width = min(context.count, int(counts.max()) + self.width)
        chosen = rank(score)[:, :width]
        values = take(context.tokens, chosen) * 2 if self.merges or self.outsider else None
        if self.outsider:  # the best one gives way to a token that is none
            values[:, 0], chosen = 3 * context.tokens[:, :7].mean(1), chosen.clone()
            chosen[:, 0] = -1
        sizes = torch.full(chosen.shape, 3.0) if self.sizes else None
        return Selection(chosen, values, sizes, counts)


@cache
def model_of(attention):
    return tiny_llava(attn_implementation=attention)


@cache
def inputs_of(texts=TEXTS):
    return llava_inputs(model_of("sdpa"), texts)


def method_of(position, **options):
    method = Varying(**options)
    method.default_position = position
    return method


def alone(row):
    return single_row(inputs_of(), row), KEYS[row : row + 1]


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize(
    ("layers", "attention", "layout", "position"),
    [
        *(((1, 3), "sdpa", *way) for way in WAYS),
        *(((1, 3), "eager", *way) for way in WAYS[::2]),
        *(((0,), "sdpa", *way) for way in WAYS[::2]),
        *(((2,), "eager", *way) for way in WAYS[1::2]),
    ],
)
def test_a_batch_with_unequal_counts_equals_its_rows_alone(layers, attention, layout, position):
    model, inputs = model_of(attention), inputs_of()
    options = {"kept": (12, 6)[: len(layers)], "agg_layer": layers, "layout": layout, "position": position}
    with reduce_tokens(model, Varying(), row_keys=KEYS, **options) as record:
        logits = model(**inputs).logits[:, -1]
        counts, positions = record.counts, record.positions
        cached = model.generate(**inputs, **NEW)
        assert torch.equal(cached, model.generate(**inputs, **NEW, use_cache=False))
        searching = layout == "compact" and position == "source"
        beams = model.generate(**inputs, **NEW | {"num_beams": 3}) if searching else None
    # The second stage leaves the row of 3 as it is: it has no more than the 6 that this stage asks for.
    assert counts.tolist() == ([3, 11, 7, 11] if len(layers) == 1 else [3, 5, 3, 5])
    for row, count in enumerate(counts.tolist()):
        given, key = alone(row)
        with reduce_tokens(model, Varying(), row_keys=key, **options) as single:
            torch.testing.assert_close(logits[row], model(**given).logits[0, -1], atol=1e-4, rtol=1e-4)
            if row < 2:  # of the fewest tokens, and of the most
                assert torch.equal(cached[row, -STEPS:], model.generate(**given, **NEW)[0, -STEPS:])
            if row < 2 and searching:
                searched = model.generate(**given, **NEW | {"num_beams": 3})
                assert torch.equal(beams[row, -STEPS:], searched[0, -STEPS:])
        assert positions[row, :count].tolist() == single.positions[0].tolist()
        assert positions[row, count:].tolist() == [-1] * (positions.shape[1] - count)
        assert single.counts is None


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("layers", [(2,), (1, 3)])
@pytest.mark.parametrize("position", ["source", "front", "renumber"])
def test_a_batch_with_unequal_counts_equals_the_run_by_hand(position, layers, merges):
    model, inputs = model_of("sdpa"), inputs_of()
    options = {"kept": (12, 6)[: len(layers)], "agg_layer": layers}
    with reduce_tokens(model, method_of(position, merges=merges), row_keys=KEYS, **options):
        logits, written = model(**inputs).logits[:, -1], model.generate(**inputs, **NEW)
    for row in range(len(TEXTS)):
        given, key = alone(row)
        method = method_of(position, merges=merges)
        given_text = {name: value for name, value in given.items() if name != "pixel_values"}
        oracle = by_hand(model, given, method, reduce_tokens(model, method, row_keys=key, **options))
        torch.testing.assert_close(logits[row], oracle(**given_text).logits[0, -1], atol=1e-4, rtol=1e-4)
        if row < 2:
            assert torch.equal(written[row, -STEPS:], oracle.generate(**given_text, **NEW, use_cache=False)[0, -STEPS:])


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize(
    "options", [{"merges": True}, {"sizes": True}, {"outsider": True, "sizes": True}, {"width": 2}]
)
@pytest.mark.parametrize(("layout", "position"), [WAYS[0], WAYS[2], WAYS[4]])
def test_values_sizes_and_strangers_stay_with_their_rows(layout, position, options):
    model, inputs = model_of("sdpa"), inputs_of()
    setting = {"kept": (12, 6), "agg_layer": (1, 3), "layout": layout, "position": position}
    with reduce_tokens(model, Varying(**options), row_keys=KEYS, **setting) as record:
        logits = model(**inputs).logits[:, -1]
        positions, counts = record.positions, record.counts
        cached = model.generate(**inputs, **NEW)
        assert torch.equal(cached, model.generate(**inputs, **NEW, use_cache=False))
    for row, count in enumerate(counts.tolist()):
        given, key = alone(row)
        with reduce_tokens(model, Varying(**options), row_keys=key, **setting) as single:
            torch.testing.assert_close(logits[row], model(**given).logits[0, -1], atol=1e-4, rtol=1e-4)
            if row < 2:
                assert torch.equal(cached[row, -STEPS:], model.generate(**given, **NEW)[0, -STEPS:])
        assert positions[row, :count].tolist() == single.positions[0, :count].tolist()
        if options.get("outsider"):
            assert (positions[row, :count] == -1).sum() >= 1


@torch.no_grad()
@pytest.mark.parametrize(
    ("position", "layers", "sizes"),
    [("source", (0,), True), ("renumber", (0,), False), ("source", (1, 3), False), ("renumber", (1, 3), True)],
)
def test_pieces_and_compiled_pieces_equal_the_rows_alone(position, layers, sizes):
    model, inputs = model_of("sdpa"), inputs_of()
    setting = {"kept": (12, 6)[: len(layers)], "agg_layer": layers, "position": position}
    stages = make_stages(Varying(sizes=sizes), num_layers=4, **setting)
    capture = CpuCapture()
    expected = []
    for row in range(len(TEXTS)):
        given, key = alone(row)
        with reduce_tokens(model, Varying(sizes=sizes), row_keys=key, **setting):
            expected.append((model(**given).logits[0, -1], model.generate(**given, **NEW)[0, -STEPS:].tolist()))
    for split in (SplitModel(model), uncompiled_split(model, capture)):
        state = split.reduce_all(split.embed(**inputs, row_keys=KEYS), stages)
        found = split.logits(state)
        writer = Writer(split)
        decoding = writer.prefill(writer.begin(split.embed(**inputs, row_keys=KEYS), STEPS), stages)
        written = [decoding.logits]
        for _ in range(STEPS - 1):
            written.append(writer.step(decoding, written[-1].argmax(-1, keepdim=True)))
        for row, (logits, tokens) in enumerate(expected):
            torch.testing.assert_close(found[row], logits, atol=1e-4, rtol=1e-4)
            assert [int(step[row].argmax()) for step in written] == tokens
        if split.graphs is not None:
            assert state.visual_index.shape[1] == 32  # shapes repeat
            assert state.counts.sum(1).tolist() == ([3, 11, 7, 11] if len(layers) == 1 else [3, 5, 3, 5])


@dataclass
class More(Method):
    """Keeps one token more than asked for: the mean of the picture, before all others."""

    name: ClassVar[str] = "more"
    returns_values: ClassVar[bool] = True

    tells: bool = True

    def remaining(self, kept, count, layer=0, stage=0):
        return kept + 1 if self.tells else kept

    def select(self, context):
        chosen = rank(context.tokens.norm(dim=-1))[:, : context.kept]
        values = torch.cat([context.tokens.mean(1, keepdim=True), take(context.tokens, chosen)], 1)
        return Selection(torch.cat([torch.full_like(chosen[:, :1], -1), chosen], 1), values)


@torch.no_grad()
@pytest.mark.parametrize("position", ["source", "front", "renumber"])
def test_a_token_that_is_none_of_the_pictures_stands_at_the_lowest_free_place(position):
    model, inputs = model_of("sdpa"), single_row(inputs_of(), 1)
    split, method = SplitModel(model), More()
    stages = make_stages(method, kept=6, agg_layer=2, position=position)
    before = split.run(split.embed(**inputs), 2)
    state = split.reduce(before, stages[0])
    tokens = take(before.hidden, before.visual_index)
    chosen = rank(tokens.norm(dim=-1))[0, :6].tolist()
    free = min(set(range(VISUAL)) - set(chosen))
    if position == "source":
        expected = [-1 if place == free else place for place in sorted([*chosen, free])]
        assert state.position_ids[0, state.visual_index[0]].tolist() == [3 + place for place in sorted([*chosen, free])]
    else:
        expected = [-1, *chosen]
        assert state.position_ids[0, state.visual_index[0]].tolist() == list(range(3, 10))
    assert state.positions[0].tolist() == expected
    assert state.indices[0].tolist() == [-1 if place < 0 else place + 3 for place in expected]
    carried = take(state.hidden, state.visual_index)[0]
    own = torch.cat([tokens[0], tokens[0].mean(0, keepdim=True)])
    torch.testing.assert_close(carried, own[expected], atol=1e-5, rtol=1e-5)
    later = make_stages("fastv", kept=3, agg_layer=3)[0]
    last = split.reduce(split.run(state, 3), later)
    assert set(last.positions[0].tolist()) <= {-1, *chosen}


@torch.no_grad()
def test_a_count_other_than_the_method_says_is_refused():
    model, inputs = model_of("sdpa"), inputs_of()
    with reduce_tokens(model, More(), kept=6, agg_layer=2) as record:
        model(**inputs)
    assert record.positions.shape == (4, 7)
    refused = pytest.raises(TokenselError, match=r"must choose \[4, 6\] tokens, chose \[4, 7\]")
    with refused, reduce_tokens(model, More(tells=False), kept=6, agg_layer=2):
        model(**inputs)


@torch.no_grad()
def test_padding_predicts_no_label():
    model, inputs = model_of("sdpa"), inputs_of()
    unseen = inputs["attention_mask"].cumsum(1) <= 1  # padding, and the first token, which nothing alone predicts
    labels = inputs["input_ids"].masked_fill(unseen | (inputs["input_ids"] == IMAGE_TOKEN), -100)
    setting = {"kept": 12, "agg_layer": 2}
    with reduce_tokens(model, Varying(), row_keys=KEYS, **setting):
        together = model(**inputs, labels=labels, num_items_in_batch=1).loss
    total = 0
    for row in range(len(TEXTS)):
        given, key = alone(row)
        with reduce_tokens(model, Varying(), row_keys=key, **setting):
            total += model(
                **given, labels=labels[row : row + 1, -given["input_ids"].shape[1] :], num_items_in_batch=1
            ).loss
    torch.testing.assert_close(together, total, atol=1e-4, rtol=1e-4)


def two_pictures():
    """Rows of two pictures with text before, between and behind them."""
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(4, 97, (len(TEXTS), 9), generator=generator)
    picture = torch.full((len(TEXTS), VISUAL), IMAGE_TOKEN)
    ids = torch.cat([words[:, :2], picture, words[:, 2:4], picture, words[:, 4:]], 1)
    pixels = torch.randn(2 * len(TEXTS), 3, 84, 84, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.no_grad()
@pytest.mark.parametrize(
    ("layout", "position"), [("compact", "renumber"), ("compact", "source"), ("zero_fill", "front")]
)
def test_several_pictures_keep_unequal_numbers_each(layout, position):
    model, inputs = model_of("sdpa"), two_pictures()
    setting = {"kept": (12, 8), "agg_layer": (1, 3), "layout": layout, "position": position}
    with reduce_tokens(model, ByNorm(), **setting) as record:
        logits = model(**inputs).logits[:, -1]
        counts, positions = record.counts.tolist(), record.positions
        cached = model.generate(**inputs, **NEW)
    assert len(set(counts)) > 1
    for row, count in enumerate(counts):
        pixels = inputs["pixel_values"][2 * row : 2 * row + 2]
        given = {name: value[row : row + 1] for name, value in inputs.items()} | {"pixel_values": pixels}
        with reduce_tokens(model, ByNorm(), **setting) as single:
            torch.testing.assert_close(logits[row], model(**given).logits[0, -1], atol=1e-4, rtol=1e-4)
            if row < 2:
                assert torch.equal(cached[row, -STEPS:], model.generate(**given, **NEW)[0, -STEPS:])
        assert positions[row, :count].tolist() == single.positions[0, :count].tolist()


@dataclass
class ByNorm(Method):
    """Keeps the tokens whose norm is above the picture's mean, one at least."""

    name: ClassVar[str] = "by_norm"

    def remaining(self, kept, count, layer=0, stage=0):
        return None

    def select(self, context):
        norm = context.tokens.norm(dim=-1)
        return Selection(rank(norm), counts=(norm >= norm.mean(1, keepdim=True)).sum(1).clamp_min(1))


@torch.no_grad()
@pytest.mark.parametrize("layers", [(0,), (1,), (1, 2)])
def test_deepstack_features_stay_with_their_tokens(layers):
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, "mrope_interleaved": True}
    text = tiny_llava().config.text_config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = {name: text[name] for name in (*names, "num_key_value_heads", "initializer_range")} | {"head_dim": 8}
    vision = {"depth": 3, "hidden_size": 24, "intermediate_size": 48, "num_heads": 2, "patch_size": 14}
    vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    ids = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
    config = Qwen3VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **ids)
    model = Qwen3VLForConditionalGeneration(config).eval()
    pixels = torch.randn(3 * 64, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[9, 5] + [3] * 16 + [6, 11, 12, 13]])

    def given(rows):
        tokens = words.expand(len(rows), -1)
        seen = torch.cat([pixels[64 * row : 64 * row + 64] for row in rows])
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": seen,
            "image_grid_thw": torch.tensor([[1, 8, 8]] * len(rows)),
            "mm_token_type_ids": (tokens == 3).int(),
        }

    setting = {"kept": (8, 4)[: len(layers)], "agg_layer": layers, "family": "qwen2_5_vl"}
    keys = torch.tensor([3, 11, 6])
    with reduce_tokens(model, Varying(), row_keys=keys, **setting) as record:
        together = model(**given([0, 1, 2])).logits[:, -1]
        assert record.counts is not None
    for row in range(3):
        with reduce_tokens(model, Varying(), row_keys=keys[row : row + 1], **setting):
            torch.testing.assert_close(together[row], model(**given([row])).logits[0, -1], atol=1e-4, rtol=1e-4)
