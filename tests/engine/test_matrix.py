"""Every method through one matrix: batched as alone, cached as recomputed, valid choices, a model left as it was."""

import copy
import itertools
from functools import cache

import pytest
import torch
from helpers.methods import kept_of, left_of
from helpers.models import llava_inputs, single_row, tiny_llava

from tokensel import METHODS, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import make_stages

VISUAL = 81
BUILT_IN = sorted(name for name, kind in METHODS.items() if not kind.changes_picture)
TEXTS = (5, 9, 2)
PADDED = (0, 2)  # the rows that are shorter than the longest
FIXED = ("full", "no_image")
REDUCING = sorted(set(BUILT_IN) - set(FIXED))
# Gathers by attention, ranks by attention, draws, looks at the tower, merges, has stages.
KINDS = ("fps", "fastv", "random", "visionzip", "tome_merge", "pyramiddrop")


@cache
def model_of(dtype):
    """One for all tests: a method leaves its model as it was, which the last of them looks at."""
    return tiny_llava(image_size=126).to(dtype)


def inputs_of(model, texts=TEXTS):
    inputs = llava_inputs(model, texts)
    return inputs | {"pixel_values": inputs["pixel_values"].to(model.dtype)}


@torch.no_grad()
def prefill(model, inputs, method, kept, **options):
    with reduce_tokens(model, method, kept=kept, **options) as record:
        return model(**inputs).logits[:, -1], record


@pytest.mark.parametrize(
    ("method", "kept"),
    [*((method, 8) for method in BUILT_IN), *itertools.product(KINDS, (1, 64, VISUAL))],
)
def test_a_padded_batch_equals_its_rows_alone(method, kept):
    model, kept = model_of(torch.float32), kept_of(method, kept)
    inputs = inputs_of(model)
    together, record = prefill(model, inputs, method, kept)
    for row in PADDED:
        alone, single = prefill(model, single_row(inputs, row), method, kept)
        torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)
        if record.positions is not None:
            assert record.positions[row].tolist() == single.positions[0].tolist()
            padding = int((inputs["attention_mask"][row] == 0).sum())
            shifted = torch.where(record.indices[row] < 0, -1, record.indices[row] - padding)
            assert shifted.tolist() == single.indices[0].tolist()
    if method != "full" and kept != VISUAL:
        whole = model(**inputs).logits[:, -1]
        assert (together - whole).abs().amax() > 1e-3, "nothing was reduced"


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kept", "dtype"),
    [(1, torch.float32), (8, torch.float32), (64, torch.float32), (8, torch.bfloat16), (8, torch.float16)],
)
@pytest.mark.parametrize("method", REDUCING)
def test_choices_are_unique_in_range_and_inside_the_image(method, kept, dtype):
    model = model_of(dtype)
    inputs = inputs_of(model)
    logits, record = prefill(model, inputs, method, kept)
    assert torch.isfinite(logits.float()).all()
    assert logits.dtype == dtype
    left = left_of(make_stages(method, kept=kept, num_layers=model.config.text_config.num_hidden_layers), VISUAL)
    assert record.positions.shape == record.indices.shape == (len(TEXTS), left)
    for row, (positions, indices) in enumerate(zip(record.positions.tolist(), record.indices.tolist(), strict=True)):
        assert len(set(positions)) == left  # a token that is none of the picture's, -1, comes at most once
        assert all(-1 <= position < VISUAL for position in positions)
        first = int((inputs["input_ids"][row] == model.config.image_token_id).nonzero()[0])
        assert indices == [first + position if position >= 0 else -1 for position in positions]


def row_of(state, row, padding):
    """One row of a right-padded state as a state of its own, without its padding."""

    def cut(values):
        return None if values is None else values[row if len(values) > 1 else 0][None, : values.shape[1] - padding]

    return state.followed_by(
        hidden=cut(state.hidden),
        attention_mask=None,
        position_ids=cut(state.position_ids),
        visual_index=state.visual_index[row : row + 1],
        row_keys=state.row_keys[row : row + 1],
        previous=cut(state.previous),
        prompt=None if state.prompt is None else row_of(state.prompt, row, padding),
        vision=None if state.vision is None else state.vision.rows(torch.tensor([row])),
        key_bias=cut(state.key_bias),
        positions=None if state.positions is None else state.positions[row : row + 1],
        indices=None if state.indices is None else state.indices[row : row + 1],
    )


@cache
def prompts_of(dtype):
    """The model in pieces, and the prompts before its first layer."""
    model = model_of(dtype)
    split = SplitModel(model)
    return split, split.embed(**inputs_of(model), uses_vision=True)


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kept", "dtype"), [(1, torch.bfloat16), (8, torch.bfloat16), (64, torch.bfloat16), (8, torch.float16)]
)
@pytest.mark.parametrize("name", REDUCING)
def test_half_precision_rows_choose_alike_alone_and_in_a_padded_batch(name, kept, dtype):
    """On equal hidden states every choice of every stage is the same. What the stock model's own layers round
    otherwise under a padding mask is theirs, and left out here."""
    split, together = prompts_of(dtype)
    stages = make_stages(name, kept=kept, num_layers=split.num_layers)
    for stage in stages:
        together = split.run(together, stage.layer)
        padding = (~together.attention_mask).sum(1).tolist()
        reduced = split.reduce(together, stage)
        for row in PADDED:
            alone = split.reduce(row_of(together, row, padding[row]), stage)
            if reduced is together:  # a stage whose schedule leaves nothing to remove yet
                assert alone.positions is None
                continue
            assert reduced.positions[row].tolist() == alone.positions[0].tolist()
            assert reduced.indices[row].tolist() == alone.indices[0].tolist()
        together = reduced
    assert together.positions.shape == (len(TEXTS), left_of(stages, VISUAL))


@pytest.mark.parametrize("method", KINDS)
def test_bfloat16_rows_choose_almost_alike_alone_and_in_a_padded_batch(method):
    model = model_of(torch.bfloat16)
    inputs = inputs_of(model)
    _, record = prefill(model, inputs, method, kept_of(method, 8))
    # The layers below round differently under a padding mask, which can decide a near tie in each stage.
    stages = METHODS[method].default_layers
    allowed = 0 if max(stages) == 0 else 2 if len(stages) == 1 else 4
    for row in range(len(TEXTS)):
        _, single = prefill(model, single_row(inputs, row), method, kept_of(method, 8))
        if record.positions is not None:
            assert len(set(record.positions[row].tolist()) - set(single.positions[0].tolist())) <= allowed


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("method", BUILT_IN)
def test_generation_with_a_cache_equals_recomputing(method):
    model = model_of(torch.float32)
    inputs = inputs_of(model)
    new = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    with reduce_tokens(model, method, kept=kept_of(method, 8)):
        cached = model.generate(**inputs, **new)
        assert torch.equal(cached, model.generate(**inputs, **new, use_cache=False))
        for row in PADDED[:1]:
            alone = model.generate(**single_row(inputs, row), **new)
            assert torch.equal(cached[row, -3:], alone[0, -3:])


def hooks_of(model):
    return [
        (name, list(module._forward_hooks), list(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]


@torch.no_grad()
@pytest.mark.parametrize("method", BUILT_IN)
def test_the_model_is_untouched_after_exit_and_after_an_exception(method):
    model = model_of(torch.float32)
    inputs = inputs_of(model)
    plain = model(**inputs).logits  # transformers leaves hooks of its own in the first forward
    before, weights = hooks_of(model), copy.deepcopy(model.state_dict())
    prefill(model, inputs, method, kept_of(method, 8))
    with pytest.raises(IndexError), reduce_tokens(model, method, kept=kept_of(method, 8)):
        model(**inputs | {"input_ids": inputs["input_ids"] + 10_000})
    assert hooks_of(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(**inputs).logits, plain)
