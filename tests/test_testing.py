"""make_context: a Context made from tensors returns them, and names what it was not given."""

import pytest
import torch

import tokensel.testing
from tokensel import TokenselError, make_method
from tokensel.testing import make_context, make_vision

BATCH, COUNT, HIDDEN, HEADS, TEXT = 2, 16, 8, 4, 5


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


TOKENS = random(BATCH, COUNT, HIDDEN)


def test_the_example_of_the_docstring_runs():
    lines = tokensel.testing.__doc__.splitlines()
    exec("\n".join(line[4:] for line in lines if line.startswith("    ")), {})


def test_what_was_given_is_returned():
    text, keys = random(BATCH, TEXT, HIDDEN), random(BATCH, COUNT, HEADS, 2)
    context = make_context(
        3, tokens=TOKENS, layer=7, stage=1, stages=2, text=text, inputs=(TOKENS * 2, text), keys=keys, grid=(2, 8)
    )
    assert (context.kept, context.count, context.layer, context.stage, context.stages) == (3, COUNT, 7, 1, 2)
    assert context.row_keys.tolist() == [0, 1]
    assert context.tokens is TOKENS
    assert context.text is text
    assert context.text_mask.tolist() == [[True] * TEXT] * BATCH
    assert torch.equal(context.inputs[0], TOKENS * 2)
    assert context.keys is keys
    assert context.grid == (2, 8)


@pytest.mark.parametrize(
    ("argument", "use"),
    [
        ("text", lambda context: context.text),
        ("text", lambda context: context.text_mask),
        ("inputs", lambda context: context.inputs),
        ("keys", lambda context: context.keys),
        ("grid", lambda context: context.grid),
        ("vision", lambda context: context.vision),
        ("attention", lambda context: context.attention()),
        ("attention", lambda context: context.attention("text", layer="next")),
    ],
)
def test_what_was_not_given_is_named(argument, use):
    with pytest.raises(TokenselError, match=rf"^{argument}=None: .*; give make_context\({argument}=\.\.\.\)$"):
        use(make_context(3, tokens=TOKENS))


def test_attention_of_other_queries_than_given_is_refused():
    with pytest.raises(TokenselError, match="the attention of 'image'"):
        make_context(3, tokens=TOKENS, attention={"last": random(BATCH, HEADS, COUNT)}).attention("image")


def test_layer_0_has_no_previous_layer_but_a_next_one():
    attention = random(BATCH, HEADS, COUNT)
    context = make_context(3, tokens=TOKENS, layer=0, attention=attention)
    assert context.attention() is None
    assert torch.equal(context.attention(layer="next"), attention)


def test_attention_of_every_query_is_summed_by_weights_over_the_instruction():
    mask = torch.tensor([[False, True, True, True, True], [False, False, True, True, False]])
    weights = random(BATCH, TEXT)
    each = random(BATCH, HEADS, TEXT, COUNT)
    context = make_context(3, tokens=TOKENS, text=random(BATCH, TEXT, HIDDEN), text_mask=mask, attention={"text": each})
    for given in (None, weights):
        scale = mask * (1 if given is None else given)
        expected = torch.einsum("bhsn,bs->bhn", each, scale.float())
        torch.testing.assert_close(context.attention("text", given), expected)


def test_a_method_may_write_into_its_attention():
    attention = random(BATCH, HEADS, COUNT)
    context = make_context(3, tokens=TOKENS, attention=attention)
    context.attention().zero_()
    assert context.attention().sum() > 0


@pytest.mark.parametrize("kept", [-1, COUNT + 1])
def test_a_kept_out_of_range_is_refused(kept):
    with pytest.raises(TokenselError, match=f"^kept={kept}: must be from 0 to {COUNT}"):
        make_context(kept, tokens=TOKENS)


def test_methods_that_use_the_vision_tower_run_on_given_states():
    features, cls_attention = random(BATCH, COUNT, 6), random(BATCH, HEADS, COUNT)
    vision = make_vision(features, cls_attention=cls_attention, project=lambda values: values[..., :4] * 2)
    context = make_context(3, tokens=vision.project(features), vision=vision)
    selection = make_method("visionzip", contextual=0, cls=False).select(context)
    expected = cls_attention.sum(1).topk(3).indices.sort().values
    assert torch.equal(selection.indices, expected)
    own = features.gather(1, expected.unsqueeze(2).expand(-1, -1, 6))
    assert torch.equal(selection.values, own[..., :4] * 2)
    with pytest.raises(TokenselError, match=r"^vision_keys=None: .*; give make_context\(vision_keys=\.\.\.\)$"):
        make_method("prumerge").select(make_context(3, tokens=TOKENS, vision=vision))
