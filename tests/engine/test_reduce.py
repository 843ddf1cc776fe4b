"""reduce_tokens on stock models: generation, padding, passing through, leaving no trace, clear mistakes."""

import copy
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.models import IMAGE_TOKEN, llava_inputs, single_row, tiny_llama, tiny_llava
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from tokensel import Context, Method, Selection, TokenselError, reduce_tokens
from tokensel.engine.attention import attention_to_visual, last_real
from tokensel.functional import cross_attention, farthest_point_sampling

METHODS = ("fps", "tome", "fastv", "random", "full", "no_image")
LAYERS = (0, 2, 3)  # 3 is the last of the tiny models


def options(method, **more):
    unchanged = {"aggregation": "none"} if more.get("layout") == "mask" else {}
    return {"kept": 0 if method == "no_image" else 6} | unchanged | more


def generate(model, inputs, new=8, **more):
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=new, do_sample=False, eos_token_id=None, **more)
    return tokens[:, -new:]


# Everything in the layout that matters most; elsewhere a pruning and an aggregating method, before and inside.
MATRIX = [(method, layer, "compact", "sdpa") for method in METHODS for layer in LAYERS] + [
    (method, layer, layout, attention)
    for layout, attention in (("compact", "eager"), ("zero_fill", "sdpa"), ("mask", "sdpa"), ("mask", "eager"))
    for method, layer in (("fps", 0), ("fastv", 2))
]


@pytest.mark.sampled
@pytest.mark.parametrize(("method", "layer", "layout", "attention"), MATRIX)
def test_generation_agrees_with_and_without_cache_batched_and_alone(method, layer, layout, attention):
    model = tiny_llava(attn_implementation=attention)
    inputs = llava_inputs(model, (5, 9, 2))
    with reduce_tokens(model, method, agg_layer=layer, **options(method, layout=layout)):
        cached = generate(model, inputs, new=4)
        assert torch.equal(cached, generate(model, inputs, new=4, use_cache=False))
        alone = [generate(model, single_row(inputs, row), new=4) for row in (0, 2)]  # the two that are padded
    assert torch.equal(cached[[0, 2]], torch.cat(alone))
    if method in ("fps", "no_image"):  # or the whole test would hold for a reduction that does nothing
        assert not torch.equal(cached, generate(model, inputs, new=4))


@torch.no_grad()
def by_hand(model, inputs, layer, kept):
    """fps in plain steps, on one unpadded prompt: cut the sequence at `layer`, keep position ids, run on."""
    ids = inputs["input_ids"]
    visual = (ids[0] == IMAGE_TOKEN).nonzero()[:, 0]
    captured = []
    layers = model.model.language_model.layers
    handle = layers[layer].register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    model(**inputs)
    handle.remove()
    hidden = captured[0]
    chosen = farthest_point_sampling(hidden[:, visual], kept, "medoid")
    tokens = cross_attention(hidden[:, visual][:, chosen[0]], hidden[:, visual], 0.1)
    start, stop = int(visual[0]), int(visual[-1]) + 1
    hidden = torch.cat([hidden[:, :start], tokens, hidden[:, stop:]], 1)
    positions = torch.cat([torch.arange(start + kept), torch.arange(stop, ids.shape[1])])[None]
    rotary = model.model.language_model.rotary_emb(hidden, position_ids=positions)
    for module in layers[layer:]:
        hidden = module(hidden, position_embeddings=rotary, position_ids=positions)
    return chosen, model.lm_head(model.model.language_model.norm(hidden))


@pytest.mark.parametrize("layer", LAYERS)
def test_compact_fps_is_what_one_would_do_by_hand(layer):
    model = tiny_llava()
    inputs = llava_inputs(model, (5,))
    chosen, expected = by_hand(model, inputs, layer, kept=6)
    with torch.no_grad(), reduce_tokens(model, "fps", kept=6, agg_layer=layer) as record:
        ours = model(**inputs).logits
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(record.positions, chosen)
    assert torch.equal(record.indices, chosen + 3)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_last_querys_attention_equals_the_eager_row(layer):
    model = tiny_llava(attn_implementation="eager")
    inputs = llava_inputs(model, (5, 9))
    seen = {}
    with torch.no_grad():
        rows = model(**inputs, output_attentions=True).attentions[layer - 1][:, :, -1]

    @dataclass
    class Watch(Method):
        name: ClassVar[str] = "watch"

        def select(self, context: Context) -> Selection:
            seen["row"] = context.last_query_attention
            return Selection(torch.arange(context.kept).expand(len(context.row_keys), -1))

    Watch.uses_attention = True
    with torch.no_grad(), reduce_tokens(model, Watch(), kept=6, agg_layer=layer):
        model(**inputs)
    expected = torch.stack([row[:, ids == IMAGE_TOKEN] for row, ids in zip(rows, inputs["input_ids"], strict=True)])
    torch.testing.assert_close(seen["row"], expected, atol=1e-5, rtol=1e-4)


def test_right_padding_still_finds_the_last_real_query():
    model = tiny_llama().model
    layer, hidden = model.layers[0], torch.randn(1, 12, 32)
    rotary = model.rotary_emb(hidden, position_ids=torch.arange(12)[None])
    index = torch.arange(2, 6)[None]
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[:, 9:] = False
    last = last_real(mask, hidden)
    assert last.tolist() == [[8]]
    ours = attention_to_visual(layer, hidden, rotary, mask, index, last)
    cut = (rotary[0][:, :9], rotary[1][:, :9])
    torch.testing.assert_close(ours, attention_to_visual(layer, hidden[:, :9], cut, None, index, last))


@pytest.mark.parametrize(
    "setting",
    [
        {"method": "fps", "kept": 36},
        {"method": "tome", "kept": 36, "agg_layer": 0},
        {"method": "fastv", "kept": 5, "agg_layer": 4},
        {"method": "full"},
        {"method": "fps", "kept": 36, "layout": "zero_fill"},
    ],
)
def test_nothing_to_remove_passes_through_bit_for_bit(setting):
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    with torch.no_grad():
        expected = model(**inputs).logits
        with reduce_tokens(model, **setting) as record:
            assert torch.equal(model(**inputs).logits, expected)
    assert record.positions is None


def test_a_prompt_without_a_picture_passes_through_bit_for_bit():
    model = tiny_llava()
    ids = torch.randint(4, 90, (2, 12))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with reduce_tokens(model, "fps", kept=4) as record:
            assert torch.equal(model(input_ids=ids).logits, expected)
            model(**llava_inputs(model, (5,)))
            assert record.positions is not None
            assert torch.equal(model(input_ids=ids).logits, expected)
            assert record.positions is None


def test_more_kept_than_tokens_is_said_once():
    model = tiny_llava()
    inputs = llava_inputs(model, (5,))
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("default")
        for _ in range(3):
            with reduce_tokens(model, "fps", kept=50):
                model(**inputs)
                model(**inputs)
    assert [str(one.message) for one in said] == ["kept=50: the image has 36 visual tokens; nothing is removed"]


def hooks(model):
    return [
        (name, list(module._forward_pre_hooks), list(module._forward_hooks), list(vars(module)))
        for name, module in model.named_modules()
    ]


def test_nothing_is_left_behind_even_after_an_exception():
    model = tiny_llava()
    inputs = llava_inputs(model, (5,))
    with torch.no_grad():
        expected = model(**inputs).logits
        before = hooks(model)
        with reduce_tokens(model, "fastv", kept=4):
            model(**inputs)
        assert hooks(model) == before
        with pytest.raises(RuntimeError, match="mine"), reduce_tokens(model, "fps", kept=4, agg_layer=0):
            raise RuntimeError("mine")
        with pytest.raises(ZeroDivisionError), reduce_tokens(model, Broken(), kept=4):
            model(**inputs)
        assert hooks(model) == before
        assert torch.equal(model(**inputs).logits, expected)


@dataclass
class Broken(Method):
    name: ClassVar[str] = "broken"

    def select(self, context: Context) -> Selection:
        raise ZeroDivisionError


def test_nesting_and_re_entering_are_refused_and_another_model_is_not():
    model, other = tiny_llava(), tiny_llava()
    with reduce_tokens(model, "fps", kept=4):
        with (
            pytest.raises(TokenselError, match="already being reduced"),
            reduce_tokens(model, "tome", kept=4),
        ):
            pass
        with pytest.raises(TokenselError, match="already"), reduce_tokens(model.model.language_model, "full"):
            pass
        with reduce_tokens(other, "fps", kept=4):
            pass
    with reduce_tokens(model, "fps", kept=4):
        pass


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("method", ["fps", "fastv"])
@torch.no_grad()
def test_plain_decoders_take_an_image_mask(method, layer):
    model = tiny_llama()
    ids = torch.randint(4, 90, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, 3:23], mask[1, 5:25] = True, True
    setting = {"kept": 5, "agg_layer": layer, "image_mask": mask}
    with reduce_tokens(model, method, **setting) as record:
        whole = model(input_ids=ids).logits
        assert whole.shape[1] == 15
        embedded = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
        assert torch.equal(whole, embedded)
        cached = generate(model, {"input_ids": ids})
        assert torch.equal(cached, generate(model, {"input_ids": ids}, use_cache=False))
    if method == "fps":
        assert torch.equal(record.indices - record.positions, torch.tensor([[3], [5]]).expand(-1, 5))
    with reduce_tokens(model.model, method, **setting):
        torch.testing.assert_close(model.lm_head(model.model(ids).last_hidden_state), whole)


@torch.no_grad()
def test_scattered_visual_tokens_are_found_wherever_they_are():
    model = tiny_llama()
    embeds = torch.randn(1, 20, 32)
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, [2, 3, 7, 8, 15]] = True
    with reduce_tokens(model.model, "random", kept=2, agg_layer=1, image_mask=mask) as record:
        assert model.model(inputs_embeds=embeds).last_hidden_state.shape[1] == 17
    assert set(record.indices[0].tolist()) <= {2, 3, 7, 8, 15}


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_a_second_turn_on_the_same_cache_equals_one_long_prompt(layer):
    model = tiny_llava()
    inputs = llava_inputs(model, (9,))
    with reduce_tokens(model, "fps", kept=6, agg_layer=layer):
        expected = model(**inputs).logits[:, -4:]
        cache = DynamicCache(config=model.config.text_config)
        first = {"input_ids": inputs["input_ids"][:, :-4], "pixel_values": inputs["pixel_values"]}
        model(**first, past_key_values=cache)
        second = model(input_ids=inputs["input_ids"][:, -4:], past_key_values=cache).logits
    torch.testing.assert_close(second, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_two_caches_may_take_turns():
    model = tiny_llava()
    prompts = [single_row(llava_inputs(model, (5, 8)), row) for row in (0, 1)]
    new = torch.tensor([[11]])
    with reduce_tokens(model, "fps", kept=6, agg_layer=0):
        caches = [DynamicCache(config=model.config.text_config) for _ in prompts]
        for prompt, cache in zip(prompts, caches, strict=True):
            model(**prompt, past_key_values=cache)
        turns = [model(input_ids=new, past_key_values=cache).logits[:, -1] for cache in caches]
        for prompt, turn in zip(prompts, turns, strict=True):
            longer = {
                "input_ids": torch.cat([prompt["input_ids"], new], 1),
                "pixel_values": prompt["pixel_values"],
            }
            torch.testing.assert_close(turn, model(**longer).logits[:, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_earlier_layers_keep_the_full_cache_and_later_ones_the_short_one():
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    length = inputs["input_ids"].shape[1]
    with reduce_tokens(model, "tome", kept=6, agg_layer=2):
        cache = model(**inputs, use_cache=True).past_key_values
    assert [layer.keys.shape[2] for layer in cache.layers] == [length] * 2 + [length - 30] * 2


class Emit(LogitsProcessor):
    """Forces the image token as every other new token."""

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] % 2:
            scores[:, IMAGE_TOKEN] = 1e9
        return scores


@pytest.mark.parametrize("layer", LAYERS)
def test_decoding_may_emit_the_image_token_itself(layer):
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    emit = LogitsProcessorList([Emit()])
    with reduce_tokens(model, "fps", kept=6, agg_layer=layer):
        cached = generate(model, inputs, logits_processor=emit)
        assert (cached == IMAGE_TOKEN).sum() == 8
        assert torch.equal(cached, generate(model, inputs, logits_processor=emit, use_cache=False))


@pytest.mark.parametrize("layer", LAYERS)
def test_beams_and_several_sequences_work(layer):
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    with reduce_tokens(model, "fps", kept=6, agg_layer=layer, row_keys=torch.tensor([1, 2])):
        cached = generate(model, inputs, num_beams=3, num_return_sequences=2)
        assert torch.equal(cached, generate(model, inputs, num_beams=3, num_return_sequences=2, use_cache=False))


@torch.no_grad()
def test_position_source_leaves_a_survivor_in_its_place():
    model = tiny_llava()
    inputs = llava_inputs(model, (5,))
    with reduce_tokens(model, "fps", kept=6, position="source") as record:
        source, positions = model(**inputs).logits[:, -1], record.positions
    with reduce_tokens(model, "fps", kept=6, position="front") as record:
        front = model(**inputs).logits[:, -1]
    assert positions.tolist() == record.positions.sort(1).values.tolist()
    assert not torch.allclose(source, front, atol=1e-3)


@torch.no_grad()
def test_zero_fill_keeps_the_length_and_leaves_zeros_behind_the_survivors():
    model = tiny_llava()
    seen = []
    with reduce_tokens(model, "tome", kept=6, layout="zero_fill"):
        layer = model.model.language_model.layers[2]
        handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model(**llava_inputs(model, (5,)))
        handle.remove()
    empty = (seen[0][0] == 0).all(1).nonzero()[:, 0]
    assert empty.tolist() == list(range(3 + 6, 3 + 36))


@torch.no_grad()
def test_masking_equals_dropping_for_a_pruning_method():
    # Both hide the same keys from the text, at the same positions: only the cost differs.
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    for method in ("fastv", "random"):
        both = []
        for layout in ("compact", "mask"):
            with reduce_tokens(model, method, kept=6, layout=layout):
                both.append(model(**inputs).logits[:, -1])
        torch.testing.assert_close(*both, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_token_chosen_twice_takes_only_one_place():
    model = tiny_llava()
    inputs = llava_inputs(model, (5,))

    @dataclass
    class Twice(Method):
        name: ClassVar[str] = "twice"

        def select(self, context: Context) -> Selection:
            return Selection(torch.tensor([[7, 7, 3, 7]]))

    with (
        pytest.raises(TokenselError, match=r"^method 'twice': chose token 7 3 times in row 0"),
        reduce_tokens(model, Twice(), kept=4),
    ):
        model(**inputs)
    Twice.__module__ = "tokensel.methods.twice"  # some releases repeat tokens, as mmtok with as_released=true does
    with reduce_tokens(model, Twice(), kept=4) as record:
        model(**inputs)
    assert record.positions.tolist() == [[0, 1, 3, 7]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_models_work(dtype):
    model = copy.deepcopy(tiny_llava()).to(dtype)
    inputs = llava_inputs(model, (5, 9))
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    for method in METHODS:
        with reduce_tokens(model, method, **options(method)):
            assert model(**inputs).logits.isfinite().all()


def test_gradients_flow_through_the_survivors():
    model = tiny_llava()
    inputs = llava_inputs(model, (5,))
    inputs["pixel_values"].requires_grad_()
    with reduce_tokens(model, "fps", kept=6):
        model(**inputs).logits[:, -1].sum().backward()
    assert inputs["pixel_values"].grad.abs().sum() > 0


def test_mistakes_are_told_before_any_forward():
    model = tiny_llava()
    for setting, told in (
        ({"method": "fps", "kept": 0}, "kept=0"),
        ({"method": "fps", "kept": 8, "agg_layer": 5}, "from 0 to 4"),
        ({"method": "none", "kept": 8}, "choose from"),
        ({"method": "fps", "kept": 8, "temperature": float("nan")}, "temperature=nan"),
        ({"method": "fps", "kept": 8, "image_mask": torch.ones(4)}, "image_mask"),
        ({"method": "fps", "kept": 8, "row_keys": torch.ones(2)}, "row_keys"),
    ):
        with pytest.raises(TokenselError, match=told):
            reduce_tokens(model, **setting)
    with pytest.raises(TokenselError, match="image_mask: LlamaForCausalLM needs it"):
        reduce_tokens(tiny_llama(), "fps", kept=8)
    with pytest.raises(TokenselError, match="Linear"):
        reduce_tokens(torch.nn.Linear(2, 2), "fps", kept=8)


@torch.no_grad()
def test_inputs_that_cannot_be_reduced_are_told():
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    embeds = torch.randn(2, 50, 32)
    with reduce_tokens(model, "fps", kept=8):
        with pytest.raises(TokenselError, match="image_mask: needed"):
            model(inputs_embeds=embeds)
        uneven = llava_inputs(tiny_llava(), (5, 9))["input_ids"].clone()
        uneven[0, -1] = IMAGE_TOKEN
        uneven[1, (uneven[1] == IMAGE_TOKEN).nonzero()[0]] = 9
        with pytest.raises(TokenselError, match=r"\[37, 35\]"):
            model(input_ids=uneven, pixel_values=inputs["pixel_values"])
    short = torch.ones(2, 40, dtype=torch.bool)
    with (
        reduce_tokens(model, "fps", kept=8, image_mask=short),
        pytest.raises(TokenselError, match=r"image_mask=\[2, 40\]"),
    ):
        model(inputs_embeds=embeds)
    four = torch.ones(2, 1, 48, 48, dtype=torch.bool).tril()
    with reduce_tokens(model, "fps", kept=8), pytest.raises(TokenselError, match="4-D masks cannot be reduced"):
        model(**inputs | {"attention_mask": four})


@pytest.mark.parametrize("texts", [(5,), (5, 9)])  # alone, and padded on the left
@pytest.mark.parametrize("layer", [1, 3])
def test_keys_that_the_layer_before_has_just_made_are_read_from_the_cache(texts, layer):
    model = tiny_llava()
    inputs = llava_inputs(model, texts)
    projected, chosen = [], {}
    hook = model.model.language_model.layers[layer - 1].self_attn.k_proj.register_forward_hook(
        lambda module, given, output: projected.append(len(given[0]))
    )
    for use_cache in (True, False):
        projected.clear()
        with torch.no_grad(), reduce_tokens(model, "dart", kept=12, agg_layer=layer) as record:
            model(**inputs, use_cache=use_cache)
        chosen[use_cache] = record.positions
        again = 2 if not use_cache or len(texts) > 1 else 0  # for the picture and for the text
        assert len(projected) == 1 + again
    hook.remove()
    assert torch.equal(chosen[True], chosen[False])
