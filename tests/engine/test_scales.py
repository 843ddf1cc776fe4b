"""Several stages of methods whose survivors gather others: each stage as plain loops do it, weighing every token by how
many it stands for."""

import math
from functools import cache

import pytest
import torch
from helpers.by_hand import ByHand
from helpers.families import QUESTIONS, load_family
from helpers.models import llava_inputs, single_row, tiny_llava

from tokensel import Selection, make_method, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import make_stages
from tokensel.methods.fps import FarthestPoint
from tokensel.testing import make_context

LAYERS, KEPT, TEMPERATURE = [0, 2, 3], [14, 7, 3], 0.1


def choice(method, close, kept, weights):
    """The chosen tokens, in order. close: their cosines with each other. weights: how many tokens each stands for."""
    count = len(close)
    degrees = [sum(weights[n] * close[m][n] for n in range(count)) for m in range(count)]
    ranked = sorted(range(count), key=lambda index: (-degrees[index], index))
    if method == "tome":  # no two tokens are parallel, so no centre moves
        return ranked[:kept]
    chosen = ranked[:1]
    while len(chosen) < kept:
        reach = [weights[n] * min(1 - close[n][each] for each in chosen) for n in range(count)]
        chosen.append(reach.index(max(reach)))
    return chosen


def gathering(aggregation, close, chosen, weights):
    """With what weight each chosen token gathers each token, [M][N], and how many tokens each stands for, [M]."""
    count, several = len(close), range(len(chosen))
    if aggregation == "mean":
        nearest = [max(several, key=lambda m, n=n: (close[chosen[m]][n], -m)) for n in range(count)]
        shares = [[float(nearest[n] == m) for n in range(count)] for m in several]
        rows = [[weights[n] * shares[m][n] for n in range(count)] for m in several]
    else:
        rows = [[weights[n] * math.exp(close[each][n] / TEMPERATURE) for n in range(count)] for each in chosen]
    rows = [[each / sum(row) for each in row] for row in rows]
    if aggregation == "cross_attention":
        columns = [sum(row[n] for row in rows) for n in range(count)]
        shares = [[row[n] / columns[n] for n in range(count)] for row in rows]
    return rows, [sum(row[n] * weights[n] for n in range(count)) for row in shares]


def by_loops(method, aggregation, tokens, kept, weights):
    """The chosen tokens of [N, D], what they carry, [M, D], and how many tokens each stands for."""
    tokens = tokens.double()
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    close, weights = (unit @ unit.T).tolist(), [1.0] * len(tokens) if weights is None else weights
    chosen = choice(method, close, kept, weights)
    rows, counts = gathering(aggregation, close, chosen, weights)
    return chosen, torch.tensor(rows, dtype=torch.double) @ tokens, counts


def two_pictures():
    one, other = llava_inputs(tiny_llava(), (5,)), llava_inputs(tiny_llava(), (7,), seed=1)
    return {
        "input_ids": torch.cat([one["input_ids"], other["input_ids"]], 1),
        "attention_mask": torch.cat([one["attention_mask"], other["attention_mask"]], 1),
        "pixel_values": torch.cat([one["pixel_values"], other["pixel_values"]]),
    }


@cache
def prompt_of(family):
    """The model in pieces, and its prompts, padded on the right."""
    if family == "two pictures":
        split = SplitModel(tiny_llava())
        return split, split.embed(**two_pictures())
    loaded = load_family(family)
    split = SplitModel(loaded.model)
    return split, split.embed(**loaded.arguments(loaded.encode(QUESTIONS)))


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen3_vl", "two pictures"])
@pytest.mark.parametrize("layout", ["compact", "zero_fill"])
@pytest.mark.parametrize(("method", "aggregation"), [("fps", "cross_attention"), ("tome", "mean"), ("fps", "mean")])
def test_each_stage_chooses_gathers_and_counts_as_plain_loops_do(family, layout, method, aggregation):
    split, state = prompt_of(family)
    stages = make_stages(method, kept=KEPT, agg_layer=LAYERS, aggregation=aggregation, layout=layout)
    original = [picture.count for picture in state.pictures]
    for stage in stages:
        before = split.run(state, stage.layer)
        state = split.reduce(before, stage)
        first, written = 0, 0
        for picture, (was, left) in enumerate(zip(before.pictures, state.pictures, strict=True)):
            for row in range(len(state.hidden)):
                given = before.hidden[row, before.visual_index[row, first : first + was.count]]
                weights = None if stage.index == 0 else before.weights[row, first : first + was.count].tolist()
                chosen, values, counts = by_loops(method, aggregation, given, left.count, weights)
                place = slice(written, written + left.count)
                there = state.hidden[row, state.visual_index[row, place]]
                assert torch.allclose(there.double(), values, atol=1e-4)
                if stage.index == 0:
                    begin = sum(original[:picture])
                    assert (state.positions[row, place] - begin).tolist() == chosen
                if stage.index < 2:
                    assert state.weights[row, place].tolist() == pytest.approx(counts, rel=1e-3)
                    assert state.weights[row, place].sum().item() == pytest.approx(original[picture], rel=1e-5)
            first, written = first + was.count, written + left.count
    assert state.weights is None  # nobody asks behind the last stage


class Loops(ByHand):
    """A LLaVA that chooses by plain loops as it runs, at several layers, aggregating fps."""

    def row(self, ids, source):
        self.step, self.weights = 0, None
        return super().row(ids, source)

    def reduce(self, hidden, positions, visual, chosen, values):
        tokens = hidden[0, visual]
        chosen, values, self.weights = by_loops("fps", "cross_attention", tokens, KEPT[self.step], self.weights)
        self.step += 1
        return super().reduce(hidden, positions, visual, torch.tensor(chosen), values[None].to(hidden.dtype))


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_three_stages_write_is_what_plain_loops_write(use_cache):
    model, texts = tiny_llava(), (5, 9, 2)
    inputs = llava_inputs(model, texts)  # padded on the left
    new = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    with reduce_tokens(model, "fps", kept=KEPT, agg_layer=LAYERS) as record:
        found = model.generate(**inputs, **new, use_cache=use_cache)[:, -3:]
        assert record.positions.shape == (3, 3)
    oracle = tiny_llava()
    oracle.__class__ = Loops
    lengths = inputs["attention_mask"].sum(1).tolist()
    oracle.prepare(inputs["pixel_values"], lengths, [(layer, None, None) for layer in LAYERS], True, "front")
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(found, oracle.generate(**words, **new, use_cache=False)[:, -3:])
    beams = {"num_beams": 2, "num_return_sequences": 2}
    with reduce_tokens(model, "fps", kept=KEPT, agg_layer=LAYERS):
        many = model.generate(**inputs, **new, **beams, use_cache=use_cache)
        alone = model.generate(**single_row(inputs, 2), **new, **beams)
    assert torch.equal(many[4:, -3:], alone[:, -3:])


@torch.no_grad()
@pytest.mark.parametrize("method", ["fps", "tome"])
@pytest.mark.parametrize("aggregation", ["cross_attention", "mean"])
def test_a_stage_that_removes_nothing_changes_no_bit_and_one_stage_weighs_nothing(method, aggregation):
    split, prompt = prompt_of("llava")
    count = prompt.visual_index.shape[1]
    options = {"aggregation": aggregation}
    one = split.reduce_all(prompt, make_stages(method, kept=6, agg_layer=2, **options))
    several = split.reduce_all(prompt, make_stages(method, kept=[count, 6, 6], agg_layer=[1, 2, 3], **options))
    assert one.weights is None
    assert torch.equal(split.logits(several), split.logits(one))
    assert several.weights.sum(1).tolist() == pytest.approx([count] * len(QUESTIONS), rel=1e-5)


def test_rows_with_unequal_counts_keep_weights_of_their_own():
    """A row alone has the weights that it has in the batch; padding stands for nothing."""

    class Uneven(FarthestPoint):
        def select(self, context):
            found = super().select(context)
            return Selection(found.indices, counts=context.kept - context.row_keys)

        def remaining(self, kept, count, layer=0, stage=0):
            return None

    split, prompt = prompt_of("llava")
    prompt = prompt.rows(torch.arange(3))
    prompt = prompt.followed_by(row_keys=torch.tensor([0, 3, 1]))
    stages = make_stages(Uneven(), kept=KEPT, agg_layer=LAYERS)
    count = prompt.visual_index.shape[1]
    with torch.no_grad():
        together = split.reduce_all(prompt, stages[:2])
        assert together.weights[0].sum().item() == pytest.approx(count, rel=1e-5)
        for row in range(3):
            left = KEPT[1] - int(prompt.row_keys[row])
            alone = split.reduce_all(prompt.rows(torch.tensor([row])), stages[:2])
            assert alone.counts is None or alone.counts.tolist() == [[left]]
            assert torch.allclose(together.weights[row, :left], alone.weights[0, :left], atol=1e-4)
            assert not together.weights[row, left:].any()
            assert together.weights[row].sum().item() == pytest.approx(count, rel=1e-5)
        last = split.reduce_all(together, stages[2:])
        assert last.counts.tolist() == [[3], [0], [2]]


def test_a_method_sees_what_tokens_stand_for():
    tokens = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) * 9 + 0.1
    for name in ("fps", "tome"):
        found = make_method(name).select(make_context(5, tokens=tokens, stage=1, stages=2, weights=weights)).indices
        for row in range(2):
            unit = torch.nn.functional.normalize(tokens[row].double(), dim=-1)
            assert found[row].tolist() == choice(name, (unit @ unit.T).tolist(), 5, weights[row].tolist())
        plain = make_method(name).select(make_context(5, tokens=tokens)).indices
        assert not torch.equal(found, plain)
    given = {"tokens": tokens, "text": tokens, "attention": torch.rand(2, 4, 12), "stage": 1, "stages": 2}
    context, alone = make_context(5, **given, weights=weights), make_context(5, **given)
    assert make_method("semantic", power=0).weights(context) is weights
    semantic = make_method("semantic")
    assert torch.equal(semantic.weights(context), semantic.weights(alone) * weights)
    assert make_context(5, tokens=tokens).weights is None


@torch.no_grad()
def test_methods_whose_survivors_gather_nothing_are_given_no_weights():
    seen = []
    for name in ("fastv", "himap", "pyramiddrop"):
        method = make_method(name)
        select = method.select

        def watch(context, select=select):
            seen.append(context.weights)
            return select(context)

        method.select = watch
        model = tiny_llava()
        with reduce_tokens(model, method, kept=[12, 5], agg_layer=[1, 2]):
            model(**llava_inputs(model, (5,)))
    assert seen == [None] * 6
