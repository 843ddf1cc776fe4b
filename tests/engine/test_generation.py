"""The contract for generation: every mode equals the run by hand, or is refused in one line that names it.

docs/generation.md holds the table that `table()` makes of the modes below.
"""

import copy
import inspect
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers.by_hand import by_hand
from helpers.models import IMAGE_TOKEN, llava_inputs, single_row, tiny_llava
from transformers import (
    DynamicCache,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)

from tokensel import TokenselError, reduce_tokens
from tokensel.methods import make_method

NEW = 5
GREEDY = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
# A method of each kind: gathers by attention, ranks by attention, draws, looks at the tower, merges, has stages. Both
# kinds of attention, whose masks differ, have first, middle and last layers and several stages.
METHODS = {
    "sdpa": [
        ("fps", 0),
        ("fps", 3),
        ("fastv", 2),
        ("random", 3),
        ("visionzip", 0),
        ("tome_merge", 2),
        ("pyramiddrop", (1, 2, 3)),
    ],
    "eager": [("divprune", 0), ("fps", 2), ("fastv", 3), ("pyramiddrop", (1, 2, 3))],
}


@dataclass(frozen=True)
class Setting:
    """What a mode is tried on: the model, two prompts, and a block's arguments."""

    model: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    method: str
    layer: int | tuple[int, ...]

    def reducing(self, method=None):
        return reduce_tokens(self.model, method or self.method, kept=6, agg_layer=self.layer)

    def oracle(self, inputs=None):
        method = make_method(self.method)
        return by_hand(self.model, inputs or self.inputs, method, self.reducing(method))

    def prompt(self, row=1):
        """One of the prompts, without padding."""
        return single_row(self.inputs, row)


def text_of(inputs):
    return {name: value for name, value in inputs.items() if name != "pixel_values"}


def expected(setting, inputs, **options):
    """What the oracle writes; computed once for modes that ask for the same."""
    key = (id(setting.model), setting.method, setting.layer, str(inputs["input_ids"].tolist()), str(options))
    if key not in _expected:
        oracle = setting.oracle(inputs)
        _expected[key] = oracle.generate(**text_of(inputs), **GREEDY | options, use_cache=False)
    return _expected[key]


_expected: dict[tuple, torch.Tensor] = {}


def compare(**options):
    """A mode of `generate`: with these options it writes what the oracle does with them."""

    def run(setting, cached=None):
        torch.manual_seed(0)
        want = expected(setting, setting.inputs, **options)
        torch.manual_seed(0)
        with setting.reducing():
            got = setting.model.generate(**setting.inputs, **GREEDY | options | (cached or {}))
        assert torch.equal(got, want)

    return run


def with_cache(options):
    return lambda setting: compare()(setting, options(setting))


def one_prompt(options):
    """A mode for a single prompt, in which greedy decoding must stay greedy."""

    def run(setting):
        inputs = setting.prompt()
        inputs["input_ids"][0, -4:] = torch.tensor([11, 12] * 2)  # or nothing can be looked up
        want = expected(setting, inputs, max_new_tokens=12)
        with setting.reducing():
            assert torch.equal(
                setting.model.generate(**inputs, **GREEDY | {"max_new_tokens": 12} | options(setting)), want
            )

    return run


def draft(setting):
    """An assistant that is often right, not always."""
    torch.manual_seed(1)
    other = copy.deepcopy(setting.model)
    with torch.no_grad():
        other.lm_head.weight.add_(torch.randn_like(other.lm_head.weight) * 0.05)
    return other


def second_turn(change: Callable = lambda cache: cache, new_block=False, ids="full"):
    """What follows a first turn, over its cache or over what `change` makes of it."""

    def run(setting):
        inputs = setting.prompt()
        oracle, cache = setting.oracle(inputs), DynamicCache(config=setting.model.config.text_config)
        block = setting.reducing()
        with block:
            first = setting.model.generate(**inputs, **GREEDY, past_key_values=cache)
            full = torch.cat([first, torch.tensor([[21, 22, 23, 24]])], 1)
            if not new_block:
                got = go_on(setting.model, full, change(cache), ids)
        if new_block:
            with setting.reducing():
                got = go_on(setting.model, full, change(cache), ids)
        mask = torch.ones_like(full)
        want = oracle.generate(input_ids=full, attention_mask=mask, **GREEDY, use_cache=False)[:, -NEW:]
        assert torch.equal(got, want)

    return run


@torch.no_grad()
def go_on(model, full, cache, ids):
    if ids == "full":
        mask = torch.ones_like(full)
        return model.generate(input_ids=full, attention_mask=mask, **GREEDY, past_key_values=cache)[:, -NEW:]
    new, written = full[:, cache.get_seq_length() :], []
    for _ in range(NEW):
        new = model(input_ids=new, past_key_values=cache).logits[:, -1:].argmax(-1)
        written.append(new)
    return torch.cat(written, 1)


def through_pickle(cache):
    return pickle.load(io.BytesIO(pickle.dumps(cache)))


def prompt_plus_one(setting):
    longer = dict(setting.inputs)
    longer["input_ids"] = torch.cat([longer["input_ids"], torch.full((2, 1), 17)], 1)
    longer["attention_mask"] = torch.cat([longer["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    want = expected(setting, longer)
    for more in ({}, {"use_cache": False}):
        with setting.reducing():
            setting.model.generate(**setting.inputs, **GREEDY, **more)
            assert torch.equal(setting.model.generate(**longer, **GREEDY, **more), want)


@torch.no_grad()
def after_its_block(setting):
    cache = DynamicCache(config=setting.model.config.text_config)
    with setting.reducing():
        setting.model(**setting.prompt(), past_key_values=cache)
    setting.model(input_ids=torch.tensor([[9]]), past_key_values=cache)


@torch.no_grad()
def text_before(setting):
    inputs, cache = setting.prompt(), DynamicCache(config=setting.model.config.text_config)
    with setting.reducing():
        setting.model(input_ids=inputs["input_ids"][:, :2], past_key_values=cache)
        setting.model(input_ids=inputs["input_ids"][:, 2:], pixel_values=inputs["pixel_values"], past_key_values=cache)


@torch.no_grad()
def second_picture(setting):
    inputs, cache = setting.prompt(), DynamicCache(config=setting.model.config.text_config)
    with setting.reducing():
        setting.model(**inputs, past_key_values=cache)
        setting.model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], past_key_values=cache)


@torch.no_grad()
def cropped_too_far(setting):
    cache = DynamicCache(config=setting.model.config.text_config)
    with setting.reducing():
        setting.model(**setting.prompt(), past_key_values=cache)
    cache.crop(-1)


def uneven_rows(setting):
    inputs = dict(setting.inputs)
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][1][inputs["input_ids"][1] == IMAGE_TOKEN] = 9
    with setting.reducing():
        setting.model.generate(**inputs | {"pixel_values": inputs["pixel_values"][:1]}, **GREEDY)


def chunked(setting):
    with setting.reducing():
        setting.model.generate(**setting.inputs, **GREEDY, prefill_chunk_size=16)


def two_threads(setting):
    wants = [expected(setting, setting.prompt(row)) for row in (0, 1)]
    found = {}

    def work(row):
        for _ in range(2):
            found[row] = setting.model.generate(**setting.prompt(row), **GREEDY)

    with setting.reducing():
        threads = [threading.Thread(target=work, args=(row,)) for row in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(found[row], wants[row]) for row in (0, 1))


def copied_model(setting):
    plain = setting.model.generate(**setting.inputs, **GREEDY)
    with setting.reducing():
        other = copy.deepcopy(setting.model)
        assert torch.equal(other.generate(**setting.inputs, **GREEDY), plain)
    assert torch.equal(other.generate(**setting.inputs, **GREEDY), plain)
    with reduce_tokens(other, setting.method, kept=6, agg_layer=setting.layer):
        assert torch.equal(other.generate(**setting.inputs, **GREEDY), expected(setting, setting.inputs))


def labels(setting):
    inputs = setting.prompt()
    with torch.no_grad(), setting.reducing():
        plain = setting.model(**inputs)
        loss = setting.model(**inputs, labels=inputs["input_ids"]).loss
    after = (inputs["input_ids"] == IMAGE_TOKEN).nonzero()[-1, 1] + 1
    targets = inputs["input_ids"].clone()
    targets[:, :after] = -100  # what stands before the picture's end may have moved
    with torch.no_grad(), setting.reducing():
        loss = setting.model(**inputs, labels=targets).loss
    count = inputs["input_ids"].shape[1] - int(after)
    by_position = torch.nn.functional.cross_entropy(plain.logits[0, -count - 1 : -1], targets[0, -count:])
    torch.testing.assert_close(loss, by_position)


def checkpointing(reentrant):
    def run(setting):
        grads = []
        for checkpoint in (False, True):
            model = copy.deepcopy(setting.model).train()
            if checkpoint:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            with reduce_tokens(model, setting.method, kept=6, agg_layer=setting.layer):
                model(**setting.inputs, use_cache=False).logits[:, -1].sum().backward()
            parts = (model.model.language_model, model.model.multi_modal_projector)
            grads.append([each.grad for part in parts for each in part.parameters()])
        for plain, checkpointed in zip(*grads, strict=True):
            assert (plain is None) == (checkpointed is None)
            if plain is not None:
                torch.testing.assert_close(plain, checkpointed)

    return run


@torch.no_grad()
def autocast(setting):
    with setting.reducing() as record:
        setting.model(**setting.prompt())
        plain = record.positions
        with torch.autocast("cpu", dtype=torch.bfloat16):
            setting.model(**setting.prompt())
    assert record.positions.shape == plain.shape
    if setting.method in ("random",):
        assert torch.equal(record.positions, plain)


@torch.no_grad()
def offloaded_weights(setting):
    accelerate = pytest.importorskip("accelerate")
    with setting.reducing():
        want = setting.model(**setting.inputs).logits[:, -1]
    model = accelerate.cpu_offload(copy.deepcopy(setting.model), execution_device=torch.device("cpu"))
    with reduce_tokens(model, setting.method, kept=6, agg_layer=setting.layer):
        torch.testing.assert_close(model(**setting.inputs).logits[:, -1], want, atol=1e-4, rtol=1e-4)


def peft_wrapped(setting):
    peft = pytest.importorskip("peft")
    want = expected(setting, setting.inputs)
    model = peft.get_peft_model(copy.deepcopy(setting.model), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    with reduce_tokens(model, setting.method, kept=6, agg_layer=setting.layer):
        assert torch.equal(model.generate(**setting.inputs, **GREEDY), want)


@torch.no_grad()
def hidden_states(setting):
    with setting.reducing():
        found = setting.model(**setting.inputs, output_hidden_states=True)
        assert len(found.hidden_states) == 5
        last = setting.model(**setting.inputs).logits
    torch.testing.assert_close(setting.model.lm_head(found.hidden_states[-1]), last)
    plain = setting.model(**setting.inputs, output_hidden_states=True).hidden_states
    first = setting.layer if isinstance(setting.layer, int) else setting.layer[0]
    for index in range(1, first + 1):
        assert torch.equal(found.hidden_states[index], plain[index])
    assert found.hidden_states[first + 1].shape[1] < plain[0].shape[1]


SAMPLING = {"do_sample": True, "top_k": 5}
# name -> (how it is tried, what it is refused with; None: it equals the run by hand)
MODES: dict[str, tuple[Callable, str | None]] = {
    "greedy, dynamic cache": (compare(), None),
    "greedy, no cache": (with_cache(lambda setting: {"use_cache": False}), None),
    "greedy, a DynamicCache() that makes its layers itself": (
        with_cache(lambda setting: {"past_key_values": DynamicCache()}),
        None,
    ),
    "greedy, static cache": (with_cache(lambda setting: {"cache_implementation": "static"}), None),
    "greedy, a StaticCache object": (
        with_cache(
            lambda setting: {"past_key_values": StaticCache(config=setting.model.config.text_config, max_cache_len=80)}
        ),
        None,
    ),
    "sampling": (compare(**SAMPLING), None),
    "several return sequences": (compare(**SAMPLING, num_return_sequences=2), None),
    "beams": (compare(num_beams=3, num_return_sequences=2), None),
    "beam sampling": (compare(**SAMPLING, num_beams=2), None),
    "prompt lookup": (one_prompt(lambda setting: {"prompt_lookup_num_tokens": 3}), None),
    "assisted decoding": (one_prompt(lambda setting: {"assistant_model": draft(setting)}), None),
    "a second turn, ids in full": (second_turn(), None),
    "a second turn, new ids only": (second_turn(ids="new"), None),
    "a second turn, cache deep-copied": (second_turn(copy.deepcopy), None),
    "a second turn, cache pickled": (second_turn(through_pickle), None),
    "a second turn in a new block": (second_turn(new_block=True), None),
    "a cache after its block": (after_its_block, "past_key_values=DynamicCache: holds a prompt that reduce_tokens"),
    "a cache cropped below its prompt": (cropped_too_far, "past_key_values: cannot be cropped to"),
    "a prompt, then the same plus one token": (prompt_plus_one, None),
    "text cached before the picture": (text_before, "past_key_values: holds text or another picture already"),
    "a second picture in a later turn": (second_picture, "past_key_values: holds text or another picture already"),
    "chunked prefill": (chunked, "prefill_chunk_size=16: a prompt is reduced as a whole"),
    "a batch with a text-only row": (uneven_rows, "visual tokens per row"),
    "labels and loss": (labels, None),
    "gradients": (checkpointing(False), None),
    "gradients, reentrant checkpointing": (checkpointing(True), None),
    "output_hidden_states": (hidden_states, None),
    "autocast": (autocast, None),
    "weights offloaded by accelerate": (offloaded_weights, None),
    "wrapped by PEFT": (peft_wrapped, None),
    "two threads": (two_threads, None),
    "a model deep-copied in a block": (copied_model, None),
}


@pytest.fixture(scope="module")
def models():
    return {attention: tiny_llava(attn_implementation=attention) for attention in ("sdpa", "eager")}


# Modes that cost most, each tried on fewer methods: the last layer, attention rows, several stages, and both masks.
COSTLY = (
    "prompt lookup",
    "a second turn in a new block",
    "a second turn, cache deep-copied",
    "gradients, reentrant checkpointing",
    "sampling",
    "several return sequences",
    "beams",
    "beam sampling",
    "assisted decoding",
    "a prompt, then the same plus one token",
    "two threads",
    "a model deep-copied in a block",
)
FEW = [("sdpa", "fps", 3), ("sdpa", "fastv", 2), ("sdpa", "pyramiddrop", (1, 2, 3)), ("eager", "fps", 2)]
CASES = [
    (mode, *case)
    for mode in MODES
    for case in (FEW if mode in COSTLY else [(kind, *each) for kind, several in METHODS.items() for each in several])
]


@pytest.mark.sampled
@pytest.mark.parametrize(("mode", "attention", "method", "layer"), CASES)
def test_every_mode_equals_the_run_by_hand_or_is_refused(models, mode, method, layer, attention):
    run, refused = MODES[mode]
    setting = Setting(models[attention], llava_inputs(models[attention], (5, 9)), method, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with nullcontext() if refused is None else pytest.raises(TokenselError, match=refused):
            run(setting)


SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 20,
}
SLIDING = {
    "uniform": (lambda: MistralForCausalLM(MistralConfig(**SMALL)), (20, 20, 20, 20)),
    "mixed": (
        lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, use_sliding_window=True, max_window_layers=2)),
        (None, None, 20, 20),
    ),
}


def windowed_by_hand(model, ids, image_mask, chosen, first, windows):
    """Greedy tokens, each computed anew from the embeddings. A window counts the tokens that remain."""
    decoder, ids = model.model, ids.clone()
    for _ in range(NEW):
        hidden, positions = decoder.embed_tokens(ids), torch.arange(ids.shape[1])[None]
        for index, layer in enumerate(decoder.layers):
            if index == first:
                keep = torch.ones(ids.shape[1], dtype=torch.bool)
                keep[: image_mask.shape[1]] = ~image_mask[0]
                keep[chosen] = True
                hidden, positions = hidden[:, keep], positions[:, keep]
            places = torch.arange(hidden.shape[1])
            seen = places <= places[:, None]
            if windows[index]:
                seen &= places > places[:, None] - windows[index]
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
            rotary = decoder.rotary_emb(hidden, position_ids=positions)
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        new = model.lm_head(decoder.norm(hidden[:, -1:])).argmax(-1)
        ids = torch.cat([ids, new], 1)
    return ids[:, -NEW:]


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", SLIDING)
@torch.no_grad()
def test_sliding_windows_count_the_tokens_that_remain(kind, layer):
    make, windows = SLIDING[kind]
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(4, 97, (1, 60), generator=torch.Generator().manual_seed(0))
    image_mask = torch.zeros(1, 60, dtype=torch.bool)
    image_mask[:, 3:39] = True
    with reduce_tokens(model, "random", kept=6, agg_layer=layer, image_mask=image_mask) as record:
        cached = model.generate(ids, **GREEDY)[:, -NEW:]
        recomputed = model.generate(ids, **GREEDY, use_cache=False)[:, -NEW:]
        lookup = model.generate(ids, **GREEDY, prompt_lookup_num_tokens=3)[:, -NEW:]
    want = windowed_by_hand(model, ids, image_mask, record.indices[0], layer, windows)
    for found in (cached, recomputed, lookup):
        assert torch.equal(found, want)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("method", ["fps", "grid", "visionzip", "prumerge", "random", "tome_merge"])
@torch.no_grad()
def test_several_pictures_are_reduced_each_by_itself(method, beams):
    model = tiny_llava()
    if beams > 1 and "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this version of transformers itself gives each beam of such a prompt other pictures")
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    first, second, rest = [9] + [IMAGE_TOKEN] * 36, [8] + [IMAGE_TOKEN] * 36, [7, 6]
    both = {"input_ids": torch.tensor([first + second + rest]), "pixel_values": pixels}
    with reduce_tokens(model, method, kept=12, agg_layer=0) as record:
        model.generate(**both, **GREEDY, num_beams=beams)
    parts = record.positions.chunk(2, 1)
    for index, (start, part) in enumerate(zip((first, second), parts, strict=True)):
        with reduce_tokens(model, method, kept=6, agg_layer=0) as alone:
            model(input_ids=torch.tensor([start + rest]), pixel_values=pixels[index : index + 1])
        assert part.shape == (beams, alone.positions.shape[1])
        found = torch.where(part < 0, -1, part - 36 * index)  # -1 is none of the picture's tokens
        if method != "random":  # it draws a picture's tokens from the same key
            assert torch.equal(found, alone.positions.expand(beams, -1))


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
        (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    ],
)
@torch.no_grad()
def test_rows_of_a_cache_that_move_take_their_plan_along(models, change, rows):
    model = models["sdpa"]
    inputs, cache = llava_inputs(model, (5, 9)), DynamicCache(config=model.config.text_config)
    more = {"input_ids": torch.tensor([[9], [11]]), "attention_mask": inputs["attention_mask"]}
    more["attention_mask"] = torch.cat([more["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    with reduce_tokens(model, "fastv", kept=6, agg_layer=2, layout="mask"):  # later tokens see what each row kept
        model(**inputs, past_key_values=cache)
        other = copy.deepcopy(cache)
        change(other)
        want = model(**more, past_key_values=cache).logits[rows]
        moved = {name: value[rows] for name, value in more.items()}
        torch.testing.assert_close(model(**moved, past_key_values=other).logits, want, atol=1e-5, rtol=1e-5)


def table() -> str:
    """The modes as a table in Markdown."""
    lines = ["| mode | what it gives |", "|---|---|"]
    for mode, (_, refused) in MODES.items():
        lines.append(f"| {mode} | " + ("as the run by hand" if refused is None else f"refused: `{refused} ...`") + " |")
    return "\n".join(lines)


def test_the_documentation_has_this_table():
    page = Path(__file__).parents[2] / "docs" / "generation.md"
    assert table() in page.read_text()
