"""Massive activations, as trained LLaVAs have them: a few channels of 1e4 and more, beside others of about 1."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers.methods import kept_of
from helpers.models import llava_inputs, tiny_llava

from tokensel import METHODS, ScoringMethod, make_stages
from tokensel.engine.split import SplitModel

REDUCING = [name for name in sorted(METHODS) if not METHODS[name].changes_picture and not METHODS[name].passes_through]
CHANNELS = (5, 19)
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def massive():
    """The model in float32, with weights that half precision holds exactly, and its inputs."""
    model = copy.deepcopy(tiny_llava(initializer_range=0.1))
    inputs = llava_inputs(model, (5, 9))
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16).float()
    with torch.no_grad():
        last, words = model.model.multi_modal_projector.linear_2, model.model.language_model.embed_tokens
        generator = torch.Generator().manual_seed(0)
        features = torch.stack(list(model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output))
        for channel in CHANNELS:
            last.weight[channel] *= 2e4 / features[..., channel].abs().max()
            words.weight[::3, channel] = 1e4 * torch.randn(len(words.weight[::3]), generator=generator)
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16).to(torch.float16).nan_to_num())
    return model, inputs


def test_the_activations_are_massive_and_fit_half_precision(massive):
    model, inputs = massive
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for each in hidden[:-1]:
        largest = each.abs().amax((0, 1))
        assert largest[list(CHANNELS)].min() > 1e4
        assert largest.max() < torch.finfo(torch.float16).max / 2
        assert largest.median() < 100


def halved(massive, dtype):
    model, inputs = massive
    return copy.deepcopy(model).to(dtype), inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}


@pytest.fixture(scope="module")
def split(massive):
    """By dtype: the model in pieces, and its prompts."""

    @cache
    def of(dtype):
        model, inputs = halved(massive, dtype)
        pieces = SplitModel(model)
        return pieces, pieces.embed(**inputs, uses_vision=True)

    return of


def exactly(state, vision):
    """The same hidden states in float32, of the decoder and of the tower."""
    previous = None if state.previous is None else state.previous.float()
    prompt = None if state.prompt is None else exactly(state.prompt, vision)
    return state.followed_by(hidden=state.hidden.float(), previous=previous, prompt=prompt, vision=vision)


def watched(stage):
    """The stage, and the scores that its method gives."""
    method, scores = stage.method, []
    if isinstance(method, ScoringMethod):
        stock = method.score
        method.score = lambda context: scores.append(stock(context)) or scores[-1]
    return stage, scores


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("name", REDUCING)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_chooses_of_its_hidden_states_what_float32_does_but_for_near_ties(split, name, dtype):
    settings = {} if name == "no_image" else {"kept": kept_of(name, 8)}
    (half, prompt), (whole, exact) = split(dtype), split(torch.float32)
    stage, scores = watched(make_stages(name, num_layers=half.num_layers, **settings)[0])
    state = half.run(prompt, stage.layer)
    found = half.reduce(state, stage)
    tower = replace(exact.vision, entering=[each.float() for each in prompt.vision.entering])
    tower = replace(tower, hidden=prompt.vision.hidden.float())
    expected = whole.reduce(exactly(state, tower), stage)
    assert all(each.isfinite().all() for each in scores)
    assert found.hidden.isfinite().all()
    assert half.logits(found).isfinite().all()
    for row, other in zip(found.positions.tolist(), expected.positions.tolist(), strict=True):
        assert len(set(row) - set(other)) <= 1
