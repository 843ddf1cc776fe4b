"""What a trial of a search means: rising layers, falling counts, and a cost that meets the budget."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokensel import TokenselError
from tokensel.data import Question, load_questions
from tokensel.data.portion import VALIDATION_SHARE, only_portion, portion_options
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.search.scales import counts_of, latest_layer, layers_of, scaled
from tokensel.evaluation.search.settings import read_search
from tokensel.evaluation.sweep.budget import read_budget
from tokensel.evaluation.sweep.costs import costed_prompt
from tokensel.models.weightless import load_without_weights

shares = st.floats(0, 1)


@given(st.lists(shares, min_size=1, max_size=3), st.integers(0, 1), st.integers(0, 12), st.integers(2, 12))
def test_layers_rise_from_the_first_that_may_be_to_the_last(depths, first, latest, end):
    layers = layers_of(depths, first, latest, end)
    assert layers == tuple(sorted(set(layers)))
    assert first <= layers[0] <= max(first, min(latest, end - len(layers)))
    assert layers[-1] < end
    assert len(layers) == min(len(depths), end - first)


def test_depths_of_0_and_1_are_the_first_and_the_last_layer():
    assert layers_of([0, 0, 0], 0, 5, 8) == (0, 1, 2)
    assert layers_of([1, 1, 1], 0, 5, 8) == (5, 6, 7)
    assert layers_of([1], 1, 5, 8) == (5,)
    assert layers_of([0.5, 0.5, 0.5], 0, 5, 8) == (3, 5, 7)


@given(st.lists(shares, max_size=2), st.integers(1, 576), st.integers(0, 575))
def test_counts_never_grow_and_rise_with_what_remains(falls, kept, more):
    counts = counts_of(falls, kept, 576)
    assert counts[-1] == kept
    assert all(576 >= one >= other for one, other in pairwise(counts))
    larger = counts_of(falls, min(576, kept + more), 576)
    assert all(one <= other for one, other in zip(counts, larger, strict=True))


def test_a_fall_is_the_share_of_the_way_that_is_left_in_logarithms():
    assert counts_of([0.5, 0.5], 1, 256) == (16, 4, 1)
    assert counts_of([0, 0], 9, 576) == (576, 576, 9)
    assert counts_of([1, 0.3], 9, 576) == (9, 9, 9)
    assert counts_of([], 9, 576) == (9,)


@cache
def prompt():
    return costed_prompt(load_without_weights(path="tiny"), load_questions("diagrams", per_family=1)[0])


@pytest.mark.parametrize("text", ["flops:0.4", "flops:0.7", "average_tokens:100"])
@pytest.mark.parametrize(
    ("method", "depths", "falls"),
    [("fps", (0.4,), ()), ("tome", (0, 0.6), (0.7,)), ("fps", (0.2, 0.1, 0.9), (0.9, 0.2)), ("fastv", (0, 1), (0.8,))],
)
def test_every_trial_costs_what_the_budget_says(text, method, depths, falls):
    budget = read_budget(text)
    point = scaled(GridPoint(method, 1), depths, falls, budget, prompt())
    cost = prompt().cost(point.stages(prompt().num_layers))
    if budget.kind == "flops":
        assert cost.total / prompt().full.total == pytest.approx(budget.target, abs=0.005)
    else:
        assert cost.tokens_layer_mean == pytest.approx(budget.target, abs=1)
    assert len(point.kept) == len(point.agg_layer) == len(depths)
    assert point.agg_layer[0] >= (method == "fastv")
    assert point.agg_layer[0] <= latest_layer(budget, GridPoint(method, 1), prompt())


def test_what_no_count_can_pay_for_is_said():
    with pytest.raises(TokenselError, match="cannot reach it"):  # the first stage removes nothing, the second is late
        scaled(GridPoint("fps", 1), (0, 1), (0,), read_budget("flops:0.4"), prompt())
    with pytest.raises(TokenselError, match="cannot reach it at any layer"):
        latest_layer(read_budget("flops:0.01"), GridPoint("fps", 1), prompt())


def test_validation_and_test_share_no_picture_and_leave_nothing_out():
    asked = {"text": "what?", "choices": ("a", "b"), "answer": 0, "image": lambda: None}
    questions = [Question(id=f"{place}", image_id=f"p{place // 2}", **asked) for place in range(2000)]
    parts = [only_portion(questions, part) for part in ("validation", "test")]
    assert sorted(parts[0] + parts[1], key=lambda question: int(question.id)) == questions
    pictures = [{question.image_id for question in found} for found in parts]
    assert not pictures[0] & pictures[1]
    assert len(pictures[0]) / 1000 == pytest.approx(VALIDATION_SHARE, abs=0.04)
    found = {part: load_questions("diagrams", per_family=9, portion=part) for part in ("validation", "test")}
    ids = {question.id for question in load_questions("diagrams", per_family=9)}
    assert {question.id for each in found.values() for question in each} == ids
    assert not {question.id for question in found["test"]} & {question.id for question in found["validation"]}
    with pytest.raises(TokenselError, match=r"data.portion=dev: .*validation"):
        load_questions("diagrams", portion="dev")


def test_a_split_for_validation_is_used_where_there_is_one():
    given = {"split": "test", "families": None}
    assert portion_options("diagrams", given, "validation") == given | {"split": "validation"}
    assert portion_options("diagrams", given, "test") == given
    train = {"split": "train"}
    assert portion_options("diagrams", train, "validation") == train | {"portion": "validation"}
    assert portion_options("gqa", {"split": "testdev"}, "test") == {"split": "testdev", "portion": "test"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"trials": 0}, "search.trials=0: must be an integer from 1"),
        ({"stages": 4}, "search.stages=4: must be an integer from 1 to 3"),
        ({"depth_2": 1.5}, "search.depth_2=1.5: must be a number from 0 to 1"),
        ({"trails": 9}, "search.trails: unknown key; keys are trials.*did you mean trials"),
    ],
)
def test_a_wrong_setting_is_named(values, said):
    with pytest.raises(TokenselError, match=said):
        read_search(values)
    assert read_search({}).depths == (0.5,)
    assert read_search({"stages": 3, "fall_1": 0.2}).falls == (0.2, 0.5)
