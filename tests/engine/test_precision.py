"""Choices in the model's precision: rounded as half-precision kernels round, and the same in a float32 model."""

import pytest
import torch
from helpers.models import llava_inputs, tiny_llava

from tokensel import TokenselError, make_stages, reduce_tokens
from tokensel.engine.precision import in_precision
from tokensel.functional.similarity import inverse_norms, query_cosines
from tokensel.testing import make_context


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_those_of_half_precision_tensors(dtype):
    a, b = (torch.randn(5, 7).to(dtype) for _ in range(2))
    with in_precision(dtype):
        product, ratio = a.float() * b.float(), a.float() / (b.float().abs() + 1)
    assert torch.equal(product, (a * b).float())
    assert torch.equal(ratio, (a / (b.abs() + 1)).float())


def test_results_in_place_and_views_are_rounded_once_and_stay_views():
    tokens = torch.full((2, 3), 1 + 2**-9)
    with in_precision(torch.bfloat16):
        view = tokens[0]
        assert torch.equal(view, tokens[0])
        view.mul_(1)
    assert torch.equal(tokens[0], torch.ones(3))
    assert torch.equal(tokens[1], torch.full((3,), 1 + 2**-9))
    with in_precision(torch.float16):
        assert (torch.ones(1) * 1e6).item() == 1e6  # float16 ends at 65504


def test_float32_changes_nothing():
    tokens = torch.randn(1, 30, 8)
    with in_precision(torch.float32):
        inside = query_cosines(tokens, inverse_norms(tokens), tokens[:, :3])
    assert torch.equal(inside, query_cosines(tokens, inverse_norms(tokens), tokens[:, :3]))


def test_near_cosines_are_told_apart_in_float32_only():
    # Angles of 0, 0.2 .. degrees: in half precision all cosines with the first are 1, and the first of them wins.
    angles = torch.linspace(0, 0.02, 12)
    tokens = torch.stack([angles.cos(), angles.sin()], 1).unsqueeze(0).half()
    choices = {}
    for precision in ("float32", "model"):  # each in a context of its own, which remembers orders of choice
        stage, context = make_stages("fps", kept=2, start=0, precision=precision)[0], make_context(2, tokens=tokens)
        choices[precision] = stage.select(context).indices[0].tolist()
    assert choices["float32"] == [0, 11]
    assert choices["model"] != choices["float32"]


@torch.no_grad()
@pytest.mark.parametrize("method", ["divprune", "fastv", "visionzip", "sparsevlm", "random"])
def test_a_half_precision_model_runs_and_a_float32_model_chooses_as_ever(method):
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    chosen = []
    for precision in ("float32", "model"):
        with reduce_tokens(model, method, kept=9, precision=precision) as record:
            model(**inputs)
        chosen.append(record.positions)
    assert torch.equal(*chosen)
    half = model.to(torch.bfloat16)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    with reduce_tokens(half, method, kept=9, precision="model") as record:
        half(**inputs)
    assert record.positions.shape[0] == 2


def test_another_precision_is_refused():
    with pytest.raises(TokenselError, match="precision='half': choose from float32, model"):
        make_stages("fps", kept=4, precision="half")
