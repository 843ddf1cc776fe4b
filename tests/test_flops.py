"""Counted costs against torch's own counter, on the same forward."""

import pytest
import torch
from helpers import llava_inputs, single_row, tiny_llama, tiny_llava
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokensel import make_stages, reduce_tokens
from tokensel.flops import prefill_cost

POINTS = [
    ("fps", {"kept": 4, "agg_layer": 2}),
    ("fps", {"kept": 4, "agg_layer": 2, "start": "peripheral"}),
    ("fps", {"kept": 9, "agg_layer": 0, "aggregation": "none"}),
    ("tome", {"kept": 8, "agg_layer": 1}),
    ("fastv", {"kept": 4, "agg_layer": 2}),
    ("fastv", {"kept": 4, "agg_layer": 0}),
    ("random", {"kept": 12, "agg_layer": 3}),
    ("random", {"kept": 12, "agg_layer": 4}),
    ("random", {"kept": 700, "agg_layer": 1}),
    ("random", {"kept": 4, "agg_layer": 2, "layout": "mask"}),
    ("full", {}),
    ("no_image", {"agg_layer": 0}),
]


def counted(method, settings, config, text_tokens, visual_tokens):
    (stage,) = make_stages(method, **settings)
    if stage.method.passes_through:
        return prefill_cost(config, text_tokens=text_tokens, visual_tokens=visual_tokens)
    return prefill_cost(
        config,
        text_tokens=text_tokens,
        visual_tokens=visual_tokens,
        kept=stage.kept,
        agg_layer=stage.layer,
        method=stage.method,
        aggregation=stage.aggregation,
        layout=stage.layout,
    )


def measured(model, method, settings, inputs, image_mask=None):
    """Operations of one prompt, and the bytes of its cache."""
    # torch has no formula for the CPU's fused attention; the plain one is made of matrix products, which it
    # counts. It has none for matrix times vector either, which a single prompt's selection uses: so two
    # prompts, halved.
    inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
    image_mask = None if image_mask is None else torch.cat([image_mask, image_mask])
    counter = FlopCounterMode(display=False)
    reducing = reduce_tokens(model, method, image_mask=image_mask, **settings)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, reducing:
        output = model(**inputs, use_cache=True, logits_to_keep=1)
    layers = output.past_key_values.layers
    cache_bytes = sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in layers)
    return counter.get_total_flops() / 2, cache_bytes / 2


@pytest.mark.parametrize(("method", "settings"), POINTS)
def test_cost_of_a_llava_prefill_matches_the_flop_counter_within_1_percent(method, settings):
    model = tiny_llava()
    inputs = single_row(llava_inputs(model, texts=(7,)), 0)
    cost = counted(method, settings, model.config, 10, 36)
    flops, cache_bytes = measured(model, method, settings, inputs)
    assert cost.total == pytest.approx(flops, rel=0.01)
    if settings.get("layout") != "mask":
        assert cost.kv_bytes == cache_bytes


@pytest.mark.parametrize(("method", "settings"), POINTS)
def test_cost_of_a_llama_prefill_matches_the_flop_counter_within_1_percent(method, settings):
    model = tiny_llama()
    ids = torch.randint(4, 97, (1, 50), generator=torch.Generator().manual_seed(0))
    image_mask = torch.zeros(1, 50, dtype=torch.bool)
    image_mask[:, 5:41] = True
    cost = counted(method, settings, model.config, 14, 36)
    flops, _ = measured(model, method, settings, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, image_mask)
    assert cost.total == pytest.approx(flops, rel=0.01)


def test_layer_mean_counts_visual_tokens_before_and_after_the_reduction():
    cost = prefill_cost(tiny_llama().config, text_tokens=10, visual_tokens=36, kept=4, agg_layer=1)
    assert cost.tokens_layer_mean == (36 + 3 * 4) / 4


def test_half_precision_halves_the_cache_only():
    config = tiny_llama().config
    whole = prefill_cost(config, text_tokens=10, visual_tokens=36)
    half = prefill_cost(config, text_tokens=10, visual_tokens=36, bytes_per_value=2)
    assert (half.kv_bytes * 2, half.total) == (whole.kv_bytes, whole.total)
