"""Budgets: the kept at which methods of one stage and of several cost the same."""

from dataclasses import replace

import pytest

from tokensel import TokenselError
from tokensel.data import load_questions
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.sweep.budget import read_budget, solve
from tokensel.evaluation.sweep.costs import costed_prompt, middle_question, tokens_left
from tokensel.evaluation.sweep.plan import PlannedPoint, solved
from tokensel.models import load_model
from tokensel.models.weightless import load_without_weights

METHODS = ("fps", "tome", "fastv", "random", "divprune", "visionzip", "cdpruner", "himap", "grid", "tome_merge")


@pytest.fixture(scope="module")
def question():
    return middle_question(load_without_weights("tiny"), load_questions("diagrams", limit=5))


@pytest.fixture(scope="module")
def llava_7b(question):
    return costed_prompt(load_without_weights("random:llava_7b"), question)


@pytest.mark.parametrize("method", METHODS)
def test_the_solved_kept_meets_the_budget(llava_7b, method):
    average = llava_7b.figures(solve(read_budget("average_tokens:64"), GridPoint(method, 1), llava_7b))
    assert abs(average["tokens_layer_mean"] - 64) <= 1
    flops = llava_7b.figures(solve(read_budget("flops:0.4"), GridPoint(method, 1), llava_7b))
    assert flops["flops_ratio"] == pytest.approx(0.4, rel=0.005)


@pytest.mark.parametrize("text", ["average_tokens:64", "flops:0.4"])
def test_no_other_kept_is_nearer(llava_7b, text):
    budget = read_budget(text)
    figure = "tokens_layer_mean" if budget.kind == "average_tokens" else "flops_ratio"
    point = solve(budget, GridPoint("himap", 1), llava_7b)
    distances = {
        kept: abs(llava_7b.figures(GridPoint("himap", kept))[figure] - budget.target) for kept in range(1, 576, 5)
    }
    assert abs(llava_7b.figures(point)[figure] - budget.target) <= min(distances.values())


def test_a_schedule_of_stages_is_scaled_as_a_whole(llava_7b):
    point = solve(read_budget("average_tokens:200"), GridPoint("pyramiddrop", 1), llava_7b)
    stages = point.stages(llava_7b.num_layers)
    counts = [stage.kept_of(576) for stage in stages]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == tokens_left(stages, 576, llava_7b.num_layers) == point.kept


def test_a_budget_out_of_reach_is_refused_with_the_nearest_value(llava_7b):
    with pytest.raises(TokenselError, match=r"budget=average_tokens:64: method 'pyramiddrop'.*nearest is \d+.*kept=1$"):
        solve(read_budget("average_tokens:64"), GridPoint("pyramiddrop", 1), llava_7b)
    with pytest.raises(TokenselError, match=r"method 'fps' cannot reach it; the nearest is 576 .* kept=576$"):
        solve(read_budget("average_tokens:700"), GridPoint("fps", 1), llava_7b)
    with pytest.raises(TokenselError, match="method 'fps' cannot reach it; the nearest is 576 "):
        solve(read_budget("average_tokens:64"), GridPoint("fps", 1, layout="zero_fill"), llava_7b)


def test_a_control_that_cannot_reach_the_budget_is_left_out_and_another_point_is_not(llava_7b):
    budget = read_budget("average_tokens:10")
    fastv = PlannedPoint(GridPoint("fastv", 1), None, budget, control=True)
    divprune = PlannedPoint(GridPoint("divprune", 1), None, budget)
    with pytest.warns(UserWarning, match=r"^controls: without fastv \(budget=average_tokens:10: method 'fastv' cannot"):
        (left,) = solved([fastv, divprune], llava_7b)
    assert (left.point.method, left.point.kept) == ("divprune", 10)
    with pytest.raises(TokenselError, match="method 'fastv' cannot reach it"):
        solved([replace(fastv, control=False), divprune], llava_7b)


@pytest.mark.parametrize("text", ["64", "tokens:64", "average_tokens", "average_tokens:0", "flops:1", "flops:x", ""])
def test_another_budget_is_refused_in_one_line(text):
    with pytest.raises(TokenselError, match=f"^budget={text}: must be average_tokens:NUMBER above 0, or flops:"):
        read_budget(text)


def test_a_model_without_weights_counts_the_tokens_that_the_model_counts(question):
    loaded = load_model("tiny")
    with_weights, without = costed_prompt(loaded, question), costed_prompt(load_without_weights("tiny"), question)
    assert (without.text_tokens, without.visual_tokens) == (with_weights.text_tokens, with_weights.visual_tokens)
    assert without.full == with_weights.full
