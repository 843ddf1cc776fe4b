"""kept=auto in points, plans, records and costs."""

import statistics

import pytest
from helpers.models import tiny_llava
from pydantic import TypeAdapter

from tokensel import Auto, TokenselError, make_method
from tokensel.evaluation.flops import prefill_cost
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.summary import summarize
from tokensel.evaluation.sweep.costs import CostedPrompt
from tokensel.evaluation.sweep.plan import PlannedPoint, in_order
from tokensel.evaluation.sweep.plan import _controls as controls_of


def test_settings_are_text_that_is_no_number():
    said = {kept: GridPoint("fps", kept).settings() for kept in ("auto", "auto:0.9:4-64", Auto(0.9), 8)}
    assert [each["kept"] for each in said.values()] == ["auto", "auto:0.9:4-64", "auto:0.9", 8]
    own = make_method("fps").default_coverage
    assert GridPoint("fps", Auto(own)).settings() == said["auto"]
    assert GridPoint("fps", Auto(0.2, min=8, max=8)).settings() == said[8]
    staged = GridPoint("fps", ("auto:0.9", "auto"), (2, 4)).settings()
    assert (staged["kept"], staged["stages"]) == ("auto", "auto:0.9@2 auto@4")


@pytest.mark.parametrize("kept", ["auto", "auto:0.9:4-64", ("auto:0.9", "auto"), 8, 0.25, (8, 4)])
def test_points_travel_to_workers_as_they_are(kept):
    point = GridPoint("fps", kept, (2, 4) if isinstance(kept, tuple) else 2)
    sent = TypeAdapter(GridPoint)
    assert sent.validate_json(sent.dump_json(point)) == point


def test_controls_at_auto_are_those_without_a_count():
    planned = [PlannedPoint(GridPoint("fps", kept), 20) for kept in ("auto", 16)]
    names = ["full", "no_image", "fastv", "random"]
    assert [each.point.method for each in controls_of(planned[:1], names, 1)] == ["full", "no_image"]
    assert len(controls_of(planned, names, 1)) == 6
    ordered = in_order([*planned, *controls_of(planned, names, 1)])
    assert [each.point.kept for each in ordered] == [None, 16, 16, 16, Auto(), None]


def test_costs_are_means_over_what_remained():
    config = tiny_llava().config
    prompt = CostedPrompt(config, 20, 36, {}, "cpu")
    point = GridPoint("fps", "auto", 2)
    records = [{"kept": {"2": count}, "correct": True} for count in (3, 3, 12, 34)]
    figures = prompt.figures(point, records)
    stages = point.stages(prompt.num_layers)
    costs = [
        prefill_cost(config, text_tokens=20, visual_tokens=36, stages=stages, pictures={}, remaining={2: count})
        for count in (3, 3, 12, 34)
    ]
    assert figures["flops"] == round(statistics.mean(cost.total for cost in costs))
    assert figures["tokens_left"] == 13
    assert figures["tokens_layer_mean"] == pytest.approx(statistics.mean(cost.tokens_layer_mean for cost in costs))
    # 3 and 12 tokens are found among the first 32 choices, and 34 by 35 more.
    assert costs[0].selection < costs[2].selection < costs[3].selection
    fixed = prefill_cost(config, text_tokens=20, visual_tokens=36, stages=GridPoint("fps", 3, 2).stages(4), pictures={})
    product = 2 * 36 * config.text_config.hidden_size
    # 2 products more for the medoid in either; 31 and 32 rows of distances and of coverage, not 2.
    assert costs[0].selection - fixed.selection == (31 + 32 - 2) * product
    assert costs[3].selection - costs[2].selection == (2 + 34 + 35 + 2 * (34 - 12)) * product
    summary = summarize([{"prediction": 0, "answer": 0, "margin": 1.0, **record} for record in records])
    assert summary["kept_mean"] == 13
    assert summary["kept_sd"] == pytest.approx(statistics.pstdev([3, 3, 12, 34]))


def test_a_stage_that_finds_no_more_than_its_least_costs_nothing():
    config = tiny_llava().config
    stages = GridPoint("fps", Auto(min=36), 2).stages(4)
    whole = prefill_cost(config, text_tokens=20, visual_tokens=36, pictures={})
    assert prefill_cost(config, text_tokens=20, visual_tokens=36, stages=stages, pictures={}).total == whole.total


def test_pictures_cannot_be_reduced_to_an_unknown_size():
    with pytest.raises(TokenselError, match="method 'downsample' has no order of choice"):
        GridPoint("downsample", "auto")
