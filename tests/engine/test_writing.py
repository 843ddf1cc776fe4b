"""Prefill and decoding over buffers of a fixed size give the logits of the stock model under `reduce_tokens`."""

import itertools
import warnings

import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint
from helpers.evaluation import POINTS, evaluate_points
from helpers.families import FAMILIES, QUESTIONS, load_family
from helpers.graphs import NEEDS_COMPILER, CpuCapture, uncompiled_split
from helpers.methods import kept_of
from helpers.models import llava_inputs, tiny_llama, tiny_llava
from transformers import GenerationConfig

from tokensel import TokenselError, make_stages, reduce_tokens
from tokensel.engine import compiled
from tokensel.engine.compiled import Graphs
from tokensel.engine.running import Record
from tokensel.engine.split import SplitModel
from tokensel.engine.state import slides
from tokensel.engine.writing import Writer, changes_answers
from tokensel.methods import make_method
from tokensel.models import load_model
from tokensel.models.families import FAMILIES as ADAPTERS
from tokensel.models.parts import find_parts

pytestmark = pytest.mark.filterwarnings("error:compile=true")

STEPS = 3
TEXTS = (5, 9, 2)
SETTINGS = [
    {},
    {"agg_layer": 0},
    {"agg_layer": 3, "layout": "zero_fill", "aggregation": "none"},
    {"agg_layer": 1, "layout": "mask", "aggregation": "none"},
    {"agg_layer": 2, "position": "front"},
    {"agg_layer": 2, "position": "renumber"},
]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def written_by_stock(model, inputs, method, **settings):
    """The stock model's tokens [B, STEPS], the logits that each was chosen by, and what was chosen of the picture."""
    with reduce_tokens(model, method, **settings) as record:
        found = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=STEPS,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=[model.config.image_token_id],
            output_logits=True,
            return_dict_in_generate=True,
        )
        chosen = Record(record.positions, record.indices)
    return found.sequences[:, -STEPS:], found.logits, chosen


def assert_decodes_alike(model, cached, inputs, method, **settings):
    """The stock model under `reduce_tokens` against `cached`, which runs the same model. method: a name or a Method."""
    assert_decodes_as(written_by_stock(model, inputs, method, **settings), cached, inputs, method, **settings)


def assert_decodes_as(stock, cached, inputs, method, **settings):
    """stock: what `written_by_stock` gives."""
    tokens, logits, chosen = stock
    stages = make_stages(make_method(method), num_layers=cached.split.num_layers, **{"kept": None} | settings)
    uses_vision = any(stage.method.uses_vision for stage in stages)
    state = cached.begin(cached.split.embed(**inputs, uses_vision=uses_vision), STEPS)
    decoding = cached.prefill(state, stages)
    found = decoding.logits
    for step in range(STEPS):
        torch.testing.assert_close(found, logits[step].to(found.dtype), atol=1e-4, rtol=1e-4)
        found = cached.step(decoding, tokens[:, step : step + 1])
    if chosen.positions is not None:
        assert torch.equal(decoding.state.positions[: len(tokens)], chosen.positions)


def cached_of(model):
    return Writer(uncompiled_split(model))


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("method", "attention"),
    [
        *((method, "sdpa") for method in ("full", "no_image", "fps", "fastv", "random", "tome_merge", "pyramiddrop")),
        *((method, "eager") for method in ("full", "fps", "himap")),
    ],
)
def test_methods_of_every_kind_decode_as_under_reduce_tokens(method, attention):
    model = tiny_llava(attn_implementation=attention)
    cached = cached_of(model)
    inputs = llava_inputs(model, TEXTS)
    tried = 0
    for settings in SETTINGS:
        try:
            make_stages(make_method(method), kept=kept_of(method), num_layers=4, **settings)
        except TokenselError:  # not every method has every layout
            continue
        assert_decodes_alike(model, cached, inputs, method, kept=kept_of(method), **settings)
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("agg_layer", [0, 2])
def test_tokens_that_weigh_by_size_do_so_for_later_tokens(attention, agg_layer):
    model = tiny_llava(attn_implementation=attention)
    cached, inputs = cached_of(model), llava_inputs(model, TEXTS)
    weighing = make_method("tome_merge", proportional=True)
    assert_decodes_alike(model, cached, inputs, weighing, kept=4, agg_layer=agg_layer)
    stock, other = (
        written_by_stock(model, inputs, method, kept=4, agg_layer=agg_layer)[1][0]
        for method in (weighing, "tome_merge")
    )
    assert (stock - other).abs().max() > 1e-3, "sizes count for nothing here"


def test_unlike_prompts_one_after_the_other_and_again():
    """Buffers are the earlier prompts' own."""
    model = tiny_llava()
    cached = cached_of(model)
    for kept, texts in itertools.product((4, 32), ((3, 30), (2, 1), (40, 5), (3, 30))):  # 32 fill a buffer to its end
        assert_decodes_alike(model, cached, llava_inputs(model, texts), "fps", kept=kept, agg_layer=2)
    assert len(cached.split.graphs._buffers) <= 4 * 2, "a layer has one buffer for each capacity"


def test_grid_points_share_the_layers_below_their_first_stage(monkeypatch):
    """And none changes what another writes, whichever came before it over the same buffers."""
    model = tiny_llava()
    settings = [("fps", 1, "compact"), ("fps", 2, "zero_fill"), ("random", 2, "compact"), ("full", 3, "compact")]
    points = [make_stages(name, kept=kept_of(name), agg_layer=layer, layout=layout) for name, layer, layout in settings]
    writer, spans, call = cached_of(model), [], Graphs.call
    prompt = writer.split.embed(**llava_inputs(model, TEXTS))
    alone = [writer.greedy(writer.begin(prompt, STEPS), stages, STEPS, [], 0)[0] for stages in points]
    monkeypatch.setattr(Graphs, "call", lambda self, key, *given: spans.append(key[:3]) or call(self, key, *given))
    state = writer.begin(prompt, STEPS)
    for stages, expected in zip(points, alone, strict=True):
        state = writer.split.run(state, stages[0].layer)
        for _ in range(2):
            assert torch.equal(writer.greedy(state, stages, STEPS, [], 0)[0], expected)
    below = [(first, last) for kind, first, last in spans if kind == "prefill" and last < 4]
    assert below == [(0, 1), (1, 2), (2, 3)]


def test_buffers_are_dropped_between_prompts_alone(monkeypatch):
    monkeypatch.setattr(compiled, "MOST_BUFFERS", 0)
    model = tiny_llava()
    writer = Writer(uncompiled_split(model, CpuCapture()))
    for texts in ((5, 9), (40, 2), (5, 9)):
        assert_decodes_alike(model, writer, llava_inputs(model, texts), "fps", kept=4, agg_layer=2)
        assert len(writer.split.graphs._buffers) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_decodes_as_under_the_hooks(family):
    loaded = load_family(family)
    model = loaded.model
    why = "deepstack: a graph cannot look up where" if loaded.family.deepstack else None
    why = "sliding_window: compiled layers take masks without windows" if slides(find_parts(model)) else why
    if why is not None:
        with pytest.warns(UserWarning, match=f"not compiled: layers, {why}"):
            cached = Writer(SplitModel(model, compiled=True))
    else:
        cached = cached_of(model)
    # A window would count the padding on the right of a batch.
    inputs = loaded.prepare(QUESTIONS[:1] if slides(find_parts(model)) else QUESTIONS)
    for method, settings in (("fastv", {}), ("tome_merge", {"agg_layer": 0})):
        assert_decodes_alike(model, cached, inputs, method, kept=kept_of(method), **settings)
    assert set(FAMILIES) == set(ADAPTERS)


def test_an_answer_ends_with_a_stop_token_and_is_padded_after_it():
    model = tiny_llava()
    cached = cached_of(model)
    inputs = llava_inputs(model, TEXTS)
    stages = make_stages("fps", kept=6, agg_layer=2)
    state = cached.begin(cached.split.embed(**inputs), 6)
    plain, _ = cached.greedy(state, stages, 6, [], 0)
    stop = int(plain[0, 1])
    with reduce_tokens(model, "fps", kept=6, agg_layer=2):
        stock = model.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=[stop, 96], pad_token_id=7)
    ours, record = cached.greedy(state, stages, 6, [stop, 96], 7)
    assert torch.equal(ours, stock[:, inputs["input_ids"].shape[1] :])
    assert ours[0, 2] == 7
    assert record.positions.shape == record.indices.shape == (3, 6)
    all_at_once, _ = cached.greedy(state, stages, 6, plain[:, 0].tolist(), 7)
    assert all_at_once.shape == (3, 1)


def test_what_cannot_be_done_is_said_in_one_line():
    model = tiny_llava()
    cached = cached_of(model)
    decoding = cached.prefill(cached.begin(cached.split.embed(**llava_inputs(model)), 1), [])
    token = decoding.logits.argmax(-1, keepdim=True)
    cached.step(decoding, token)
    with pytest.raises(TokenselError, match=r"^room=1: no room for another token$"):
        cached.step(decoding, token)
    with pytest.raises(TokenselError, match=r"^model: has no language-model head"):
        Writer(SplitModel(tiny_llama().model))
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    said = "not compiled: layers, attn_implementation=flash_attention_2: takes no 4-D mask"
    with pytest.warns(UserWarning, match=said):
        split = SplitModel(model, compiled=True)
    assert split.graphs is None
    assert set(split.not_compiled) == {"layers"}


def test_settings_that_change_greedy_answers_are_known():
    assert changes_answers(GenerationConfig()) is None
    assert changes_answers(GenerationConfig(repetition_penalty=1.0, num_beams=1, max_new_tokens=4)) is None
    assert changes_answers(GenerationConfig(repetition_penalty=1.05)) == "repetition_penalty=1.05"
    assert changes_answers(GenerationConfig(suppress_tokens=[3])) == "suppress_tokens=[3]"
    assert changes_answers(GenerationConfig(min_new_tokens=1)) == "min_new_tokens=1"


@NEEDS_COMPILER
@pytest.mark.slow
def test_compiled_it_decodes_alike_and_shapes_repeat(caplog):
    caplog.set_level("ERROR", "torch")
    model = tiny_llava(num_hidden_layers=2)
    cached = Writer(SplitModel(model, compiled=True))

    def check(texts):
        for method in ("fps", "fastv"):
            assert_decodes_alike(model, cached, llava_inputs(model, texts), method, kept=6, agg_layer=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check((5, 9, 2))
        with torch.compiler.set_stance("fail_on_recompile"):
            check((8, 3))
            check((1, 2, 28))
            check((4,))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def texts_of(found):
    return [{id: (row["prediction"], row["text"], row.get("positions")) for id, row in rows.items()} for rows in found]


@pytest.mark.slow
def test_generated_answers_do_not_depend_on_graphs(loaded, tmp_path, monkeypatch):
    """torch.compile itself is left out: what it is given must be right."""
    whole = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole.append(function) or function)
    questions = make_questions(5, per_picture=2)
    options = {"scoring": "generate", "batch_size": 3, "keep_positions": {q.id for q in questions}}
    plain, _ = evaluate_points(loaded, tmp_path / "a", questions, **options)
    assert not whole
    graphs, failures = evaluate_points(loaded, tmp_path / "b", questions, compiled=True, **options)
    assert not failures
    assert len(whole) == 1, "one graph of a layer serves them all"
    assert texts_of(graphs) == texts_of(plain)
    assert any(row[2] for rows in texts_of(graphs) for row in rows.values())


def test_a_penalty_on_repetition_is_left_to_the_stock_model(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *given, **options: pytest.fail("compiled"))
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 1.3)
    options = {"scoring": "generate", "batch_size": 3}
    questions, points = make_questions(3), POINTS[:3]
    plain, _ = evaluate_points(loaded, tmp_path / "a", questions, points, **options)
    with pytest.warns(UserWarning, match=r"^compile=true: not compiled: generate, repetition_penalty=1\.3$"):
        found, failures = evaluate_points(loaded, tmp_path / "b", questions, points, compiled=True, **options)
    assert not failures
    assert texts_of(found) == texts_of(plain)


@pytest.mark.sampled
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_recorded_it_decodes_alike(attention):
    """Each buffer's graphs write to that buffer, whichever prompt came before."""
    model, capture = tiny_llava(attn_implementation=attention), CpuCapture()
    cached, other = (Writer(uncompiled_split(model, capture)) for _ in range(2))
    for kept, texts in ((4, (5, 9, 2)), (6, (40, 2, 3)), (4, (5, 9))):
        inputs = llava_inputs(model, texts)
        for method in ("fastv", "tome_merge"):
            settings = {"method": method, "kept": kept, "agg_layer": 2}
            stock = written_by_stock(model, inputs, **settings)
            for each in (cached, other):
                assert_decodes_as(stock, each, inputs, **settings)
    with torch.inference_mode(False):
        pixels = torch.randn(2, 3, 84, 84)
        for given in (pixels, pixels + 1):
            torch.testing.assert_close(
                cached.features({"pixel_values": given}), cached.split.features({"pixel_values": given})[0]
            )
    recordings = capture.count
    assert_decodes_alike(model, cached, llava_inputs(model, (5, 9, 2)), "fps", kept=4, agg_layer=2)
    assert capture.count == recordings


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_graphs_decode_as_the_layers_do(dtype):
    model = tiny_llava().cuda().to(dtype)
    graphs, plain = (Writer(SplitModel(model, compiled=compiled)) for compiled in (True, False))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=true")  # torch has warnings of its own here
        for texts, kept in itertools.product(((5, 9, 2), (1, 20), (5, 9, 2)), (4, 6)):
            inputs = {name: value.cuda() for name, value in llava_inputs(model, texts).items()}
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
            stages = make_stages("fps", kept=kept, agg_layer=2)
            ours, theirs = (
                each.prefill(each.begin(each.split.embed(**inputs), STEPS), stages) for each in (graphs, plain)
            )
            for _ in range(STEPS):
                tolerance = 1e-3 if dtype == torch.float32 else 0.2
                torch.testing.assert_close(ours.logits, theirs.logits, atol=tolerance, rtol=tolerance)
                token = theirs.logits.argmax(-1, keepdim=True)
                ours.logits, theirs.logits = graphs.step(ours, token), plain.step(theirs, token)
