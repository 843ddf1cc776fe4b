"""aggregation="learned" in the one reduced forward: it begins as cross-attention everywhere, and gradients reach it."""

import pytest
import torch
from helpers.aggregators import make_aggregator
from helpers.families import FAMILIES, QUESTIONS, load_family
from helpers.flops import counting
from helpers.models import llava_inputs, single_row, tiny_llava

from tokensel import TokenselError, make_stages, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.evaluation.flops import prefill_cost
from tokensel.functional import learned_cross_attention, take
from tokensel.models import EMBEDDED
from tokensel.training.aggregator import LearnedAggregator


def logits_of(model, inputs, **settings):
    with reduce_tokens(model, **{"method": "fps", "kept": 5, "agg_layer": 1} | settings):
        return model(**inputs).logits[:, -1]


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_it_is_cross_attention_in_every_family(family):
    loaded = load_family(family)
    inputs = loaded.prepare(QUESTIONS[:2])
    width = (getattr(loaded.model.config, "text_config", None) or loaded.model.config).hidden_size
    untrained = LearnedAggregator(width, rank=3, heads=4, temperature=0.2)
    settings = {"agg_layer": 1, "temperature": 0.2}
    plain = logits_of(loaded.model, inputs, aggregation="cross_attention", **settings)
    learned = logits_of(loaded.model, inputs, aggregation="learned", aggregator=untrained, **settings)
    torch.testing.assert_close(learned, plain, atol=1e-6 * float(plain.abs().max()), rtol=1e-6)
    trained = logits_of(loaded.model, inputs, aggregation="learned", aggregator=make_aggregator(width), **settings)
    assert float((trained - plain).abs().max()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"layout": "zero_fill"}, {"position": "source"}, {"method": "fastv"}])
def test_survivors_carry_what_the_function_gives(options):
    """In a run by pieces, whose logits are those of the model's own forward."""
    model, aggregator = tiny_llava(), make_aggregator(32)
    inputs = llava_inputs(model, (5, 9))
    settings = {
        "method": "fps",
        "kept": 6,
        "agg_layer": 2,
        "aggregation": "learned",
        "aggregator": aggregator,
    } | options
    split = SplitModel(model)
    (stage,) = make_stages(**settings)
    entering = split.run(split.embed(**inputs), 2)
    reduced = split.reduce(entering, stage)
    tokens = take(entering.hidden, entering.visual_index)
    parameters = {name: value for name, value in aggregator.named_parameters() if name != "log_temperature"}
    parameters["temperature"] = aggregator.log_temperature.exp()
    wanted = learned_cross_attention(take(tokens, reduced.positions.clamp_min(0)), tokens, **parameters)
    torch.testing.assert_close(take(reduced.hidden, reduced.visual_index[:, :6]), wanted)
    torch.testing.assert_close(split.logits(reduced), logits_of(model, inputs, **settings), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_of_the_aggregator_and_nothing_else():
    model, aggregator = tiny_llava().requires_grad_(False), make_aggregator(32)
    logits = logits_of(model, llava_inputs(model, (5, 9)), aggregation="learned", aggregator=aggregator)
    logits.log_softmax(-1)[:, 7].sum().backward()
    for name, value in aggregator.named_parameters():
        assert float(value.grad.abs().max()) > 0, name
    assert all(value.grad is None for value in model.parameters())


def test_an_untrained_aggregator_learns_through_its_up_projections_first():
    model, aggregator = tiny_llava().requires_grad_(False), LearnedAggregator(32, rank=2, heads=2)
    logits_of(model, llava_inputs(model), aggregation="learned", aggregator=aggregator).square().sum().backward()
    moved = {name for name, value in aggregator.named_parameters() if float(value.grad.abs().max()) > 0}
    assert moved == {"query_up", "key_up", "value_up", "log_temperature"}


@torch.no_grad()
def test_untrained_it_is_cross_attention_over_several_stages_that_weigh_centroids():
    model = tiny_llava()
    inputs, stages = llava_inputs(model, (5, 9)), {"kept": [12, 5, 2], "agg_layer": [0, 1, 3], "temperature": 0.2}
    untrained = LearnedAggregator(32, rank=2, heads=2, temperature=0.2)
    plain = logits_of(model, inputs, **stages)
    learned = logits_of(model, inputs, aggregation="learned", aggregator=untrained, **stages)
    torch.testing.assert_close(learned, plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_it_runs_in_half_precision_and_on_several_pictures():
    model, aggregator = tiny_llava(), make_aggregator(32)
    inputs = llava_inputs(model, (5, 9))
    exact = logits_of(model, inputs, aggregation="learned", aggregator=aggregator)
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    rounded = logits_of(model.bfloat16(), half, aggregation="learned", aggregator=aggregator)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded - exact).abs().max()) < 0.2 * float(exact.abs().max())
    loaded = load_family("llava_next")  # tiles; a prompt of two pictures
    twice = loaded.prepare([QUESTIONS[0]])
    two = {"input_ids": twice["input_ids"].repeat(1, 2), "attention_mask": twice["attention_mask"].repeat(1, 2)}
    two |= {name: twice[name].repeat(2, *[1] * (twice[name].ndim - 1)) for name in ("pixel_values", "image_sizes")}
    width = loaded.model.config.text_config.hidden_size
    plain, learned = (
        logits_of(loaded.model, two, kept=8, **options)
        for options in (
            {"aggregation": "cross_attention"},
            {"aggregation": "learned", "aggregator": LearnedAggregator(width, rank=2, heads=2)},
        )
    )
    torch.testing.assert_close(learned, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kept", "layout", "heads"), [(4, "compact", 1), (9, "zero_fill", 4)])
def test_its_cost_is_what_torch_counts(kept, layout, heads):
    model = tiny_llava()
    inputs = single_row(llava_inputs(model, (7,)), 0)
    common = {"kept": kept, "agg_layer": 1, "layout": layout}
    costs, counts = [], []
    for options in (
        {"aggregation": "none"},
        {"aggregation": "learned", "aggregator": make_aggregator(32, heads=heads)},
    ):
        stages = make_stages("fps", **common, **options)
        costs.append(prefill_cost(model.config, text_tokens=10, visual_tokens=36, stages=stages))
        with counting(model) as counter, reduce_tokens(model, "fps", **common, **options):
            model(**inputs, logits_to_keep=1)
        counts.append(counter.total)
    assert costs[1].total - costs[0].total == counts[1] - counts[0] > 0
    assert costs[1].selection - costs[0].selection == counts[1] - counts[0]


def test_what_does_not_fit_is_refused():
    model = tiny_llava()
    cases = [
        ({"aggregation": "learned"}, "aggregator=NoneType: aggregation='learned' needs FILE.safetensors"),
        ({"aggregation": "learned", "aggregator": "tiny"}, "aggregator=tiny: made for hidden states 192 wide, not 32"),
        ({"aggregation": "mean", "aggregator": "tiny"}, "aggregator: is of aggregation='learned', not 'mean'"),
        ({"aggregation": "learned", "aggregator": "tiny", "layout": "mask"}, "layout='mask': the survivors keep"),
        ({"aggregation": "learned", "aggregator": "tiny", "method": "pool", "kept": 4}, "method 'pool' aggregates by"),
    ]
    for options, wrong in cases:
        with pytest.raises(TokenselError) as raised:
            reduce_tokens(model, **{"method": "fps", "kept": 5} | options)
        assert wrong in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_embedded_model_has_an_aggregator_of_its_own(monkeypatch):
    model = tiny_llava(hidden_size=192, num_attention_heads=6, num_key_value_heads=6)
    model.name_or_path = str(EMBEDDED["tiny"])
    block = reduce_tokens(model, "fps", kept=5, aggregation="learned")
    assert block.stages[0].learned.made["command"].startswith("python -m runners.train_aggregator")
