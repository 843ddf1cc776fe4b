"""Choices that hang on a tie are found, those that do not are left alone, and no choice changes by looking."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from helpers.models import llava_inputs, tiny_llava

from tokensel import METHODS, Method, ScoringMethod, Selection, make_stages
from tokensel.engine.split import SplitModel
from tokensel.engine.ties import TieWatch, with_noise
from tokensel.functional.indexing import TIE
from tokensel.testing import make_context


@dataclass
class ByFirstNumber(ScoringMethod):
    """Keeps the tokens with the largest first number."""

    name: ClassVar[str] = "by_first_number"

    def score(self, context):
        return context.tokens[:, :, 0]


def look(method, context, **stage_settings):
    watch = TieWatch()
    (stage,) = make_stages(method, kept=context.kept, **stage_settings)
    replace(stage, watch=watch).select(context)
    return watch.of(context.row_keys)


def test_a_choice_between_numbers_that_rounding_can_swap_is_found_in_its_row():
    numbers = torch.arange(10.0, 0, -1).repeat(2, 1)
    # The last that stays and the first that goes: as far apart as ties may be, so noise makes them tie or not.
    numbers[1, 2], numbers[1, 3] = 1.0, 1.0 + TIE
    numbers[1, :2], numbers[1, 4:] = 5.0, 0.5
    context = make_context(3, tokens=numbers.unsqueeze(2).repeat(1, 1, 4))
    assert look(ByFirstNumber(), context) == [False, True]


def test_equal_tokens_hang_on_no_tie_because_the_first_wins():
    context = make_context(3, tokens=torch.ones(2, 10, 4))
    assert look("fastv", replace_attention(context, torch.ones(2, 2, 10))) == [False, False]


def replace_attention(context, attention):
    return make_context(context.kept, tokens=context.tokens, attention=attention, layer=2)


def test_an_order_counts_only_where_survivors_take_other_tokens_places():
    @dataclass
    class SwappedUnderNoise(Method):
        name: ClassVar[str] = "swapped_under_noise"

        def select(self, context):
            order = [0, 1] if torch.equal(context.tokens, torch.ones_like(context.tokens)) else [1, 0]
            return Selection(torch.tensor([order] * len(context.row_keys)))

    context = make_context(2, tokens=torch.ones(1, 5, 4))
    assert look(SwappedUnderNoise(), context, position="source") == [False]
    assert look(SwappedUnderNoise(), context, position="front") == [True]


def test_values_that_jump_are_a_choice_of_members():
    @dataclass
    class OtherMembers(Method):
        name: ClassVar[str] = "other_members"
        returns_values: ClassVar[bool] = True

        def select(self, context):
            exact = torch.equal(context.tokens, torch.ones_like(context.tokens))
            kept = torch.arange(2).expand(len(context.row_keys), -1)
            return Selection(kept, context.tokens[:, :2] * (1 if exact else 1.01))

    assert look(OtherMembers(), make_context(2, tokens=torch.ones(1, 5, 4))) == [True]


def test_the_noise_is_tiny_and_depends_on_the_rows_key_alone():
    tokens, keys = torch.randn(3, 9, 8), torch.tensor([11, 2**40 + 5, 7])
    noisy = with_noise(make_context(2, tokens=tokens, row_keys=keys)).tokens
    assert 0 < ((noisy - tokens) / tokens).abs().max() < 1e-5
    for row in range(3):
        alone = with_noise(make_context(2, tokens=tokens[row : row + 1], row_keys=keys[row : row + 1])).tokens
        assert torch.equal(alone[0], noisy[row])
    opposite = with_noise(make_context(2, tokens=tokens, row_keys=keys), -1.0).tokens
    torch.testing.assert_close((noisy + opposite) / 2, tokens, atol=1e-6, rtol=1e-6)
    half = with_noise(make_context(2, tokens=tokens.half(), row_keys=keys)).tokens
    assert half.dtype == torch.float16
    assert not torch.equal(half, tokens.half())


@torch.no_grad()
@pytest.mark.parametrize(
    "method", sorted(name for name, kind in METHODS.items() if kind.takes_kept() and not kind.changes_picture)
)
def test_looking_changes_no_choice(method):
    model = tiny_llava()
    inputs, keys = llava_inputs(model, (5, 9)), torch.tensor([3, 4])
    split = SplitModel(model)
    needs = METHODS[method].uses_vision
    state = split.embed(**inputs, row_keys=keys, uses_vision=needs)
    stages = make_stages(method, kept=9, num_layers=split.num_layers)
    watch = TieWatch()
    watched = split.reduce_all(state, [replace(stage, watch=watch) for stage in stages])
    assert torch.equal(watched.hidden, split.reduce_all(state, stages).hidden)
    found = watch.of(keys)
    assert found is None or len(found) == 2
