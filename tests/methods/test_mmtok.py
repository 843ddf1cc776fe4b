"""MMTok beside its choice: the words of a question, and the patches inside the bars of a padded picture."""

import json

import pytest
import torch
from helpers.official import folder

from tokensel import TokenselError, make_method
from tokensel.data.keywords import keywords, question_of_message
from tokensel.functional import greedy_coverage, padding_patches
from tokensel.testing import make_context

OFFICIAL = json.loads((folder() / "manifest.json").read_text())["methods"]["mmtok"]


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("case", OFFICIAL["text_cases"], ids=lambda case: repr(case["message"])[:30])
def test_the_words_of_a_message_are_the_official_ones(case):
    question = question_of_message(case["message"])
    assert question == case["question"]
    assert keywords(question) == case["words"]


def test_marks_and_words_in_one_line_are_refused():
    with pytest.raises(TokenselError, match=r"^message='<image> and words': its first line must hold <image> marks"):
        question_of_message("<image> and words\nWhat is it?")


@pytest.mark.parametrize("case", OFFICIAL["padding_cases"], ids=lambda case: f"{case['width']}x{case['height']}")
def test_the_patches_inside_the_bars_are_the_official_ones(case):
    found = torch.zeros(24 * 24, dtype=torch.bool)
    found[padding_patches(case["width"], case["height"])] = True
    found = found.view(24, 24)
    assert int(found.sum()) == case["count"]
    assert found.all(1).nonzero().flatten().tolist() == case["whole_rows"]
    assert found.all(0).nonzero().flatten().tolist() == case["whole_columns"]


@pytest.mark.parametrize("kept", [20, 100])
def test_bars_are_kept_last_and_no_token_twice_unless_as_released(kept):
    given = {"tokens": random(2, 144, 16), "layer": 0, "vision_features": random(2, 144, 24), "grid": (12, 12)}
    sizes = [(168, 112), None]
    context = make_context(kept, **given, questions=["?"] * 2, words=random(2, 3, 16), picture_sizes=sizes)
    unknown = make_context(kept, **given, questions=["?"] * 2, words=random(2, 3, 16))
    bars = set(padding_patches(168, 112, patches=12))
    padded, whole = make_method("mmtok").select(context).indices
    assert len(set(padded.tolist())) == kept
    assert len(bars & set(padded.tolist())) == max(0, kept - (144 - len(bars)))
    assert torch.equal(whole, make_method("mmtok").select(unknown).indices[1])
    padded, released = make_method("mmtok", as_released=True).select(context).indices
    row = padded.tolist()
    assert len(bars & set(row)) == (0 in row)
    assert row.count(0) == max(0, kept - (144 - len(bars)))
    assert torch.equal(released, whole)


def test_a_row_does_not_depend_on_its_neighbours_words():
    tokens, features, words = random(2, 36, 16), random(2, 36, 24), random(2, 5, 16)
    real = torch.tensor([[True] * 2 + [False] * 3, [True] * 5])
    together = make_context(8, tokens=tokens, layer=0, vision_features=features, text=words, text_mask=real)
    alone = make_context(8, tokens=tokens[:1], layer=0, vision_features=features[:1], text=words[:1, :2])
    assert torch.equal(make_method("mmtok").select(together).indices[0], make_method("mmtok").select(alone).indices[0])


def test_without_weight_on_the_picture_the_words_alone_decide():
    tokens = torch.eye(6)[None]
    context = make_context(2, tokens=tokens, layer=0, vision_features=random(1, 6, 8), text=tokens[:, [4, 1]])
    assert make_method("mmtok", alpha=0).select(context).indices.tolist() == [[1, 4]]


def test_candidates_that_are_not_allowed_follow_the_others():
    affinity = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0]))[None]
    allowed = torch.tensor([[False, True, False, True]])
    assert greedy_coverage(affinity, 4, allowed=allowed).tolist() == [[1, 3, 0, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "alpha=-1: must be at least 0"),
        ({"text_temperature": 0}, "text_temperature=0: must be above 0"),
        ({"vision_temperature": -2.0}, "vision_temperature=-2.0: must be above 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(TokenselError, match=message):
        make_method("mmtok", **options)
