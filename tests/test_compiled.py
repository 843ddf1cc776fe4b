"""The compiled tail: the same logits as without, for batches of any size; and the word where it cannot be."""

import shutil
import warnings

import pytest
import torch
from helpers import llava_inputs, tiny_llava

from tokensel import make_stages
from tokensel.compiled import TEXT_MULTIPLE
from tokensel.split import SplitModel

NEEDS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)


def logits(split, inputs, **settings):
    stage = make_stages(settings.pop("method", "fps"), **{"kept": 6, "agg_layer": 2} | settings)[0]
    return split.logits(split.reduce(split.run(split.embed(**inputs), stage.layer), stage))


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
            check((6, 7))


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
    with pytest.warns(UserWarning, match="compile=true: runs without it, RuntimeError: no compiler$") as said:
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
