"""The model in pieces gives what the whole model under reduce_tokens gives."""

import pytest
import torch
from helpers.models import llava_inputs, single_row, tiny_llama, tiny_llava

from tokensel import TokenselError, make_stages, reduce_tokens
from tokensel.engine.split import SplitModel

METHODS = ("fps", "tome", "fastv", "random", "no_image")


def stage(method, layer, **options):
    return make_stages(method, kept=0 if method == "no_image" else 6, agg_layer=layer, **options)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("method", "layer"), [("fps", 0), ("fastv", 2), ("random", 3), ("no_image", 0)])
@torch.no_grad()
def test_pieces_equal_the_hooks(method, layer, attention):
    model = tiny_llava(attn_implementation=attention)
    inputs = llava_inputs(model, (5, 9, 2))
    keys = torch.tensor([3, 1, 4])
    split = SplitModel(model)
    prefix = split.run(split.embed(**inputs, row_keys=keys), layer)
    reduced = split.reduce(prefix, stage(method, layer))
    options = {"kept": 0 if method == "no_image" else 6, "agg_layer": layer}
    with reduce_tokens(model, method, row_keys=keys, **options) as record:
        expected = model(**inputs).logits[:, -1]
    torch.testing.assert_close(split.logits(reduced), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(reduced.positions, record.positions)
    padding = (inputs["attention_mask"] == 0).sum(1, keepdim=True)  # on the left there, on the right here
    assert torch.equal(reduced.indices, record.indices - padding)


@torch.no_grad()
def test_one_prefix_serves_many_points_and_stays_as_it_was():
    model = tiny_llava()
    split = SplitModel(model)
    prefix = split.run(split.embed(**llava_inputs(model, (5, 3))), 2)
    before = prefix.hidden.clone()
    first = split.logits(split.reduce(prefix, stage("fps", 2)))
    for method in METHODS:
        for layout in ("compact", "zero_fill", "mask"):
            split.logits(split.reduce(prefix, stage(method, 2, layout=layout, aggregation="none")))
    assert torch.equal(prefix.hidden, before)
    assert torch.equal(first, split.logits(split.reduce(prefix, stage("fps", 2))))


@torch.no_grad()
def test_without_reduction_the_pieces_are_the_model():
    model = tiny_llava()
    inputs = llava_inputs(model, (4,))
    split = SplitModel(model)
    state = split.embed(**inputs)
    expected = model(**inputs, logits_to_keep=1).logits[:, -1]
    hidden = split.run(split.run(state, 1), split.num_layers).hidden[:, -1:]
    assert torch.equal(model.get_output_embeddings()(split.parts.decoder.norm(hidden))[:, 0], expected)
    # The last layer's MLP runs for the position that is read, alone.
    torch.testing.assert_close(split.logits(state), expected, atol=1e-5, rtol=1e-5)
    assert split.reduce(state, make_stages("full", agg_layer=0)[0]) is state
    assert split.reduce(state, make_stages("fps", kept=36, agg_layer=0)[0]) is state


@torch.no_grad()
def test_image_features_can_be_cached_and_shared():
    model = tiny_llava()
    inputs = llava_inputs(model, (4, 4))
    split = SplitModel(model)
    expected = split.logits(split.embed(**inputs))
    features, _ = split.features({"pixel_values": inputs.pop("pixel_values")})
    assert [each.shape for each in features] == [(36, model.config.text_config.hidden_size)] * 2
    assert torch.equal(split.logits(split.embed(**inputs, image_features=features)), expected)


@torch.no_grad()
def test_rows_of_a_padded_batch_equal_single_prompts():
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9, 2))
    split = SplitModel(model)
    for method in METHODS:
        both = [
            split.logits(split.reduce(split.run(split.embed(**given), 2), stage(method, 2)))
            for given in (inputs, single_row(inputs, 0), single_row(inputs, 1), single_row(inputs, 2))
        ]
        torch.testing.assert_close(both[0], torch.cat(both[1:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_padding_needs_no_mask_and_may_be_on_either_side(attention):
    model = tiny_llava(attn_implementation=attention)
    left, split = llava_inputs(model, (5, 9, 2)), SplitModel(model)
    rows = [row[mask.bool()] for row, mask in zip(left["input_ids"], left["attention_mask"], strict=True)]
    right = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "attention_mask": left["attention_mask"].flip(1),
        "pixel_values": left["pixel_values"],
    }
    masks = []
    for layer in model.model.language_model.layers:
        layer.register_forward_pre_hook(lambda _, args, given: masks.append(given["attention_mask"]), with_kwargs=True)
    for method in METHODS:
        both = [
            split.logits(split.reduce(split.run(split.embed(**given), 2), stage(method, 2))) for given in (left, right)
        ]
        assert torch.equal(*both)
    assert all((mask is None) == (attention == "sdpa") for mask in masks)
    assert split.run(split.reduce(split.embed(**left), stage("fastv", 0, layout="mask")), 1).masked
    assert masks[-1] is not None


@torch.no_grad()
def test_a_plain_decoder_runs_in_pieces_from_embeddings():
    model = tiny_llama()
    embeds = torch.randn(2, 30, 32)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[:, 4:24] = True
    split = SplitModel(model)
    state = split.run(split.embed(inputs_embeds=embeds, image_mask=mask), 2)
    with reduce_tokens(model, "tome", kept=6, image_mask=mask):
        expected = model(inputs_embeds=embeds).logits[:, -1]
    ours = split.logits(split.reduce(state, stage("tome", 2)))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mistakes_are_named():
    model = tiny_llava()
    inputs = llava_inputs(model, (4, 2))
    split = SplitModel(model)
    state = split.embed(**inputs)
    with pytest.raises(TokenselError, match="about to enter layer 0"):
        split.reduce(state, stage("fps", 2))
    with pytest.raises(TokenselError, match="upto=5: must be from 0 to 4"):
        split.run(state, 5)
    with pytest.raises(TokenselError, match="every prompt must hold a token"):
        split.embed(**(inputs | {"attention_mask": inputs["attention_mask"] * torch.tensor([[1], [0]])}))
    with pytest.raises(TokenselError, match="72 image tokens, but the pictures give 36"):
        split.embed(**(inputs | {"pixel_values": inputs["pixel_values"][:1]}))
    headless = SplitModel(tiny_llama().model)
    state = headless.embed(inputs_embeds=torch.randn(1, 4, 32), image_mask=torch.zeros(1, 4).bool())
    with pytest.raises(TokenselError, match="head"):
        headless.logits(state)
    with pytest.raises(TokenselError, match="Linear"):
        SplitModel(torch.nn.Linear(2, 2))
