"""What a user's method may be given as, and every way in which its selection can be wrong."""

from dataclasses import dataclass, replace

import pytest
import torch
from helpers.methods import methods_forgotten
from helpers.models import llava_inputs, tiny_llava

from tokensel import Method, Selection, TokenselError, make_method, make_stages, reduce_tokens
from tokensel.engine.checks import while_timing
from tokensel.engine.stages import Stage
from tokensel.testing import make_context

TOKENS = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def forgetful():
    """Methods of one test are unknown to the next."""
    with methods_forgotten():
        yield


@dataclass
class LargestNorm(Method):
    """The tokens with the largest norm; without a name of its own."""

    power: float = 2.0

    def select(self, context):
        order = context.tokens.norm(p=self.power, dim=-1).argsort(dim=1, descending=True, stable=True)
        return Selection(order[:, : context.kept].sort(dim=1).values)


class Forgetful(Method):
    """Whose author forgot @dataclass."""

    power: float = 2.0

    def select(self, context):
        return LargestNorm(self.power).select(context)


def test_an_instance_a_class_and_a_name_are_all_taken():
    model = tiny_llava()
    inputs = llava_inputs(model)
    chosen = []
    for method in (LargestNorm(), LargestNorm, Forgetful, Forgetful(), f"{__file__}:LargestNorm"):
        with torch.no_grad(), reduce_tokens(model, method, kept=4) as record:
            model(**inputs)
        chosen.append(record.positions.tolist())
    assert chosen == chosen[:1] * 5
    assert LargestNorm().name == "largest_norm"
    assert make_method(Forgetful, power=1.0).power == 1.0
    with pytest.raises(TokenselError, match=r"^norm=2: method 'largest_norm' has no such option; it has power"):
        make_method(LargestNorm, norm=2)
    with pytest.raises(TokenselError, match=r"^method=Method: must be a subclass of tokensel.Method"):
        make_method(Method)


class Given(Method):
    """Returns what it was made with."""

    def __init__(self, selection, remaining=4):
        self.selection, self.number = selection, remaining

    def remaining(self, kept, count, layer=0, stage=0):
        return self.number

    def select(self, context):
        return self.selection


FIRST = torch.arange(4).repeat(2, 1)
VALUES, COUNTS = torch.ones(2, 4, 5), torch.tensor([2, 3])
WRONG = [
    (FIRST, r"select must return a tokensel.Selection, not torch.int64 \[2, 4\]"),
    (None, "select must return a tokensel.Selection, not NoneType"),
    (Selection(FIRST.tolist()), r"indices must be a LongTensor \[B, kept\], not list"),
    (Selection(FIRST.float()), r"indices must be a LongTensor \[B, kept\], not torch.float32 \[2, 4\]"),
    (Selection(FIRST.int()), r"indices must be a LongTensor \[B, kept\], not torch.int32 \[2, 4\]"),
    (Selection(FIRST[0]), r"must choose \[2, 4\] tokens, chose \[4\]"),
    (Selection(FIRST[:1]), r"must choose \[2, 4\] tokens, chose \[1, 4\]"),
    (Selection(FIRST[:, :3]), r"must choose \[2, 4\] tokens, chose \[2, 3\]"),
    (Selection(FIRST + 6), "chose token 9; there are 9, numbered from 0"),
    (Selection(FIRST - 2), "chose token -2; there are 9, numbered from 0"),
    (Selection(FIRST - 1), "chose token -1; .*; -1 stands for none of them, and needs values"),
    (Selection(torch.tensor([[0, 1, 2, 3], [5, 7, 5, 5]])), "chose token 5 3 times in row 1; choose each at most once"),
    (Selection(FIRST, values=VALUES[:, :3]), r"values must be a tensor \[2, 4, 5\], not torch.float32 \[2, 3, 5\]"),
    (Selection(FIRST, values=VALUES / 0), "values must be finite"),
    (Selection(FIRST, sizes=torch.ones(2, 3)), r"sizes must be a tensor \[2, 4\], not torch.float32 \[2, 3\]"),
    (Selection(FIRST, sizes=torch.zeros(2, 4)), "sizes must be finite and above 0"),
    (Selection(FIRST, counts=COUNTS), "counts: give them where remaining.. returns None"),
]


@pytest.mark.parametrize(("selection", "problem"), WRONG)
def test_a_wrong_selection_is_named(selection, problem):
    stage = Stage(Given(selection), 4)
    with pytest.raises(TokenselError, match=rf"^method 'given': {problem}"):
        stage.select(make_context(4, tokens=TOKENS))


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        (torch.tensor([2, 5]), r"counts must be from 0 to 4, not \[2, 5\]"),
        (torch.tensor([-1, 2]), r"counts must be from 0 to 4, not \[-1, 2\]"),
        (COUNTS.float(), r"counts must be a LongTensor \[2\], not torch.float32 \[2\]"),
        (COUNTS[:1], r"counts must be a LongTensor \[2\], not torch.int64 \[1\]"),
    ],
)
def test_wrong_counts_are_named(counts, problem):
    stage = Stage(Given(Selection(FIRST, counts=counts), None), 4)
    with pytest.raises(TokenselError, match=f"^method 'given': {problem}"):
        stage.select(make_context(4, tokens=TOKENS))


def test_right_selections_pass():
    padded = torch.tensor([[0, 1, 99, 99], [3, 2, 1, 1]])
    for selection, number in (
        (Selection(FIRST), 4),
        (Selection(FIRST - 1, values=VALUES), 4),
        (Selection(FIRST, sizes=torch.ones(2, 4)), 4),
        (Selection(padded, counts=COUNTS), None),
    ):
        assert Stage(Given(selection, number), 4).select(make_context(4, tokens=TOKENS)) is selection


def test_while_times_are_taken_no_value_is_waited_for():
    stage = Stage(Given(Selection(FIRST * 0)), 4)
    with while_timing():
        stage.select(make_context(4, tokens=TOKENS))
    with pytest.raises(TokenselError, match="chose token 0 4 times"):
        stage.select(make_context(4, tokens=TOKENS))


@dataclass
class Drawing(Method):
    """Draws from the global generator."""

    def select(self, context):
        return Selection(torch.randperm(context.count)[: context.kept].repeat(len(context.row_keys), 1))


def test_a_method_that_is_asked_twice_must_choose_the_same():
    (stage,) = make_stages(Drawing, kept=4)
    stage.select(make_context(4, tokens=TOKENS))
    with pytest.raises(TokenselError, match=r"^method 'drawing': chose other tokens when asked again; draw anything"):
        replace(stage, asks_twice=True).select(make_context(4, tokens=TOKENS))
    replace(stage, method=LargestNorm(), asks_twice=True).select(make_context(4, tokens=TOKENS))
