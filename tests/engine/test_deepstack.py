"""Models with deepstack features equal a run by hand in which these are reduced together with their visual tokens."""

from functools import cache

import pytest
import torch
from helpers.by_hand_deepstack import Choice, Row, by_hand
from helpers.families import load_family, make_picture, make_question

from tokensel import TokenselError, reduce_tokens
from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import make_stages
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
    loaded = load_family(family).with_protocol(Protocol(image_aspect="crop"))  # as wide as they are
    return loaded, loaded.prepare(QUESTIONS)


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
@pytest.mark.sampled
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


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"cache_implementation": "static"}])
@pytest.mark.parametrize(("method", "layer"), [("fps", 0), ("fps", 1), ("random", 1)])
def test_beams_and_static_caches_write_what_the_run_by_hand_writes(method, layer, options):
    loaded, inputs = prepared("qwen3_vl")
    beams = {name: value for name, value in options.items() if name == "num_beams"}
    want = oracle_of(loaded, inputs, method, layer, {}).generate(
        **text_of(inputs), **greedy(loaded, **beams), use_cache=False
    )
    with reducing(loaded, method, layer, {}):
        assert torch.equal(loaded.model.generate(**inputs, **greedy(loaded, **options)), want)


TWO = Question(
    id="two",
    text="which?",
    choices=("first", "second"),
    answer=0,
    image=(make_picture((140, 112), 1), make_picture((60, 140), 2)),
)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_several_pictures_of_several_shapes_keep_their_own_features(layer):
    """The hooks, the model in pieces, and a run by hand over what each picture keeps."""
    loaded, _ = prepared("qwen3_vl")
    inputs = loaded.prepare([TWO])
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 10], [1, 10, 4]]
    split = SplitModel(loaded.model)
    for method in ("random", "fps", "tome_merge"):
        settings = {"kept": 9, "agg_layer": layer}
        with reduce_tokens(loaded.model, method, **settings) as record:
            logits = loaded.model(**inputs).logits[:, -1]
        chosen = record.positions
        assert (chosen < 20).sum() == 6  # of 20 and 10 tokens
        stages = make_stages(method, num_layers=split.num_layers, **settings)
        pieces = split.logits(split.reduce_all(split.embed(**inputs), stages))
        torch.testing.assert_close(pieces, logits, atol=1e-5, rtol=1e-5)
        if method == "random":
            row = Row(loaded.model, inputs["input_ids"][0], inputs["input_ids"].shape[1], inputs_pictures(inputs))
            for index in range(split.num_layers):
                if index == layer:
                    row.reduce(Choice(stages[0], chosen[0], chosen[0], None, False, None))
                row.layer(index)
            by_hand = loaded.model.lm_head(row.decoder.norm(row.hidden[-1:]))
            torch.testing.assert_close(logits, by_hand, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_rows_that_keep_unequal_numbers_keep_their_own_features():
    loaded, _ = prepared("qwen3_vl")
    questions = [make_question("d", 1, (140, 112)), make_question("e", 3, (140, 112))]
    inputs = loaded.prepare(questions)
    split, settings = SplitModel(loaded.model), {"kept": 12, "adaptive": True, "agg_layer": 0}
    with reduce_tokens(loaded.model, "prumerge", **settings) as record:
        logits = loaded.model(**inputs).logits[:, -1]
        assert record.counts.tolist() == [3, 2]
        for row in range(len(questions)):
            alone = loaded.prepare(questions[row : row + 1])
            torch.testing.assert_close(loaded.model(**alone).logits[0, -1], logits[row], atol=2e-4, rtol=2e-4)
    stages = make_stages("prumerge", num_layers=split.num_layers, **settings)
    pieces = split.logits(split.reduce_all(split.embed(**inputs, uses_vision=True), stages))
    torch.testing.assert_close(pieces, logits, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_logits_of_routers_are_refused():
    loaded, inputs = prepared("qwen3_vl_moe")
    with reducing(loaded, "fps", 1, {}), pytest.raises(TokenselError, match=r"^output_router_logits=True: must be Fal"):
        loaded.model(**inputs, output_router_logits=True)
