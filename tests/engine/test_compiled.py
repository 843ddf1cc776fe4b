"""Compiled layers behind a reduction give the layers' own logits, for batches of any size, and a warning where they
cannot be compiled."""

import warnings

import pytest
import torch
from helpers.graphs import NEEDS_COMPILER, CpuCapture, uncompiled_split
from helpers.models import llava_inputs, tiny_llava

from tokensel import make_stages
from tokensel.engine.caches import Plan
from tokensel.engine.compiled import TEXT_MULTIPLE, WARMUP, Graphs
from tokensel.engine.layouts import Reduction
from tokensel.engine.split import SplitModel


def logits(split, inputs, **settings):
    stage = make_stages(settings.pop("method", "fps"), **{"kept": 6, "agg_layer": 2} | settings)[0]
    return split.logits(split.reduce(split.run(split.embed(**inputs), stage.layer), stage))


@pytest.mark.slow
@NEEDS_COMPILER
def test_compiled_logits_are_those_of_the_layers_and_shapes_repeat(caplog):
    caplog.set_level("ERROR", "torch")  # its traces would be most of a failure's report
    model = tiny_llava()
    plain, compiled = SplitModel(model), SplitModel(model, compiled=True)

    def check(texts):
        inputs = llava_inputs(model, texts)
        assert compiled.embed(**inputs).hidden.shape[1] == 36 + TEXT_MULTIPLE
        for method in ("fps", "fastv"):
            ours, theirs = (logits(split, inputs, method=method) for split in (compiled, plain))
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error", UserWarning)
        check((5, 9, 2))
        with torch.compiler.set_stance("fail_on_recompile"):  # from here on graphs are found, also for fewer rows
            check((8, 3))
            check((1, 2, 3))
            check((4,))
            compiled = SplitModel(model, compiled=True)  # as the next pass over the questions has it
            check((6, 7, 1))


@torch.no_grad()
def test_where_it_cannot_be_compiled_it_says_so_once_and_goes_on(monkeypatch):
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))

    def broken(*given, **more):
        def run(*given):
            raise RuntimeError("no compiler\nand much more")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    split = SplitModel(model, compiled=True)
    with pytest.warns(UserWarning, match="^compile=true: not compiled: tail, RuntimeError: no compiler$") as said:
        first, second = (logits(split, inputs) for _ in range(2))
    assert len([each for each in said if "compile" in str(each.message)]) == 1
    assert torch.equal(first, second)
    torch.testing.assert_close(first, logits(SplitModel(model), inputs), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_not_reduced_is_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *given, **more: pytest.fail("compiled"))
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    split = SplitModel(model, compiled=True)
    expected = SplitModel(model).logits(SplitModel(model).embed(**inputs))
    torch.testing.assert_close(split.logits(split.embed(**inputs)), expected, atol=1e-4, rtol=1e-4)


def test_a_recorded_function_sees_new_values_and_gives_copies():
    runs, capture = [], CpuCapture()

    def function(layers, values, nothing, plan):
        runs.append(values)
        assert nothing is None
        return values * plan.length + plan.reductions[2].slots

    def plan(slot, length=2):
        return Plan(length, {2: Reduction(length, torch.tensor([[slot]]))})

    graphs = Graphs([torch.nn.Linear(1, 1)], capture)

    def recorded(*given):
        return graphs.call(("tail",), function, *given)

    first = recorded(torch.ones(3, 2), None, plan(1))
    second = recorded(torch.full((3, 2), 5.0), None, plan(4))
    assert first.unique().tolist() == [3.0]
    assert second.unique().tolist() == [14.0]
    assert capture.count == 1
    assert len(runs) == WARMUP + 1 + 2
    assert len({id(values) for values in runs}) == 1
    assert recorded(torch.ones(4, 2), None, plan(1)).shape == (4, 2)
    assert recorded(torch.ones(3, 2), None, plan(1)).unique().tolist() == [3.0]
    assert capture.count == 2
    assert recorded(torch.ones(3, 2), None, plan(1, length=7)).unique().tolist() == [8.0]
    assert capture.count == 3


@pytest.mark.filterwarnings("error:compile=true")
@torch.inference_mode()
def test_recorded_tails_give_the_logits_of_the_layers():
    capture, model = CpuCapture(), tiny_llava()
    plain, compiled = SplitModel(model), uncompiled_split(model, capture)
    for texts in ((5, 9, 2), (8, 3, 1), (4,)):
        inputs = llava_inputs(model, texts)
        for kept in (4, 6):
            ours, theirs = (logits(split, inputs, kept=kept) for split in (compiled, plain))
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert capture.count == 2
    assert len({id(layer.self_attn) for layer in compiled.graphs.layers}) == 4
    assert {layer.self_attn.layer_idx for layer in compiled.graphs.layers} == {0}
    assert [layer.self_attn.layer_idx for layer in model.model.language_model.layers] == [0, 1, 2, 3]
