"""Models with deepstack features equal a run by hand in which these are reduced together with their visual tokens."""

from functools import cache

import pytest
import torch
from helpers.by_hand_deepstack import by_hand
from helpers.families import load_family, make_question

from tokensel import reduce_tokens
from tokensel.methods import make_method

NEW = 3
KEPT = 5
# Prompts of unequal lengths: one row of a batch is padded. Pictures of 5 x 4 visual tokens.
QUESTIONS = [make_question("a", 1, (140, 112)), make_question("b", 3, (140, 112))]

# Decoder layers 0 and 1 add features behind them, so that at layer 2 none are left. (method, agg_layer, other settings)
REDUCTIONS = [
    *(("fps", layer, {}) for layer in (0, 1, 2, 3)),
    *(("random", layer, {}) for layer in (0, 1, 2, 3)),
    *(("fps", layer, {"layout": "zero_fill"}) for layer in (0, 1)),
    *(("random", layer, {"layout": "zero_fill"}) for layer in (0, 1)),
    *(("random", layer, {"layout": "mask"}) for layer in (0, 1)),
    ("fps", 1, {"aggregation": "mean"}),
    ("fps", 1, {"position": "source", "temperature": 0.02}),
    ("random", 1, {"position": "front"}),
    ("fastv", 1, {}),
    ("fastv", 1, {"layout": "mask"}),
    ("tome_merge", 0, {}),
    ("tome_merge", 1, {}),
    ("pool", 1, {}),
    ("visionzip", 0, {}),
    ("prumerge", 0, {}),
    ("prumerge_plus", 0, {}),
    ("vscan", 0, {}),
    ("apet", 0, {}),
    ("apet", 1, {}),
    ("sparsevlm", 1, {}),
    ("pact", 1, {}),
    ("fastervlm", 0, {}),
    ("fps", (0, 1), {"kept": (9, KEPT)}),
    ("random", (0, 1, 2), {"kept": (9, 7, KEPT), "layout": "mask"}),
    ("tome_merge", (0, 1), {"kept": (9, KEPT)}),
    ("pyramiddrop", (1, 2, 3), {}),
]
CASES = [("qwen3_vl", *case) for case in REDUCTIONS] + [("qwen3_vl_moe", *case) for case in REDUCTIONS[::5]]


def greedy(loaded, **options):
    # A random model may well write the image token, on which a stock one fails without a cache.
    suppressed = [loaded.model.config.image_token_id, loaded.model.config.video_token_id]
    return {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "suppress_tokens": suppressed} | options


@cache
def prepared(family):
    return load_family(family), load_family(family).prepare(QUESTIONS)


def text_of(inputs):
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def oracle_of(loaded, inputs, method, layer, options, pictures=None):
    method = make_method(method)
    block = reduce_tokens(loaded.model, method, **{"kept": KEPT, "agg_layer": layer} | options)
    pictures = pictures or [loaded.family.take(inputs_pictures(inputs), [row]) for row in range(len(QUESTIONS))]
    return by_hand(loaded.model, inputs, pictures, block)


def inputs_pictures(inputs):
    return {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}


def reducing(loaded, method, layer, options):
    return reduce_tokens(loaded.model, method, **{"kept": KEPT, "agg_layer": layer} | options)


@torch.no_grad()
@pytest.mark.half
@pytest.mark.parametrize(("family", "method", "layer", "options"), CASES)
def test_deepstack_features_are_reduced_with_their_tokens(family, method, layer, options):
    loaded, inputs = prepared(family)
    oracle = oracle_of(loaded, inputs, method, layer, options)
    want = oracle.generate(**text_of(inputs), **greedy(loaded), use_cache=False)
    with reducing(loaded, method, layer, options):
        logits = loaded.model(**inputs).logits[:, -1]
        torch.testing.assert_close(logits, oracle(**text_of(inputs)).logits[:, -1], atol=2e-4, rtol=2e-4)
        assert torch.equal(loaded.model.generate(**inputs, **greedy(loaded)), want)
        assert torch.equal(loaded.model.generate(**inputs, **greedy(loaded), use_cache=False), want)
