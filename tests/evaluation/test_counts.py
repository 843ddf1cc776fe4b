"""Where the picture decides how many visual tokens remain, predictions hold the number and figures are means of it."""

from dataclasses import replace

import pytest
from helpers.checkpoints import make_questions, save_checkpoint
from helpers.evaluation import assert_same_predictions, evaluate_points

from tokensel.evaluation.flops import prefill_cost
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.summary import summarize
from tokensel.evaluation.sweep.costs import CostedPrompt
from tokensel.models import load_model

POINTS = [
    GridPoint("pact", kept=1, agg_layer=1, method_options={"cutoff": 0.1, "keep": 0.9}),
    GridPoint("feather", kept=1, agg_layer=(1, 2), method_options={"ratio": 0.4}),
    GridPoint("pact", kept=4, agg_layer=1),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def found(loaded, tmp_path_factory):
    questions = make_questions(10)
    rows, failures = evaluate_points(
        loaded, tmp_path_factory.mktemp("points"), questions, POINTS, batch_size=5, keep_positions=[questions[0].id]
    )
    assert not failures
    return questions, rows


def test_numbers_and_predictions_do_not_depend_on_the_batch(loaded, found, tmp_path):
    questions, rows = found
    alone, _ = evaluate_points(loaded, tmp_path, questions, POINTS, batch_size=1)
    assert_same_predictions(rows, alone)
    for ours, single in zip(rows[:2], alone, strict=False):
        assert {id: row["kept"] for id, row in ours.items()} == {id: row["kept"] for id, row in single.items()}
        assert len({str(row["kept"]) for row in ours.values()}) > 1, "every picture kept as many"
    assert all("kept" not in row for row in rows[2].values())


def test_kept_means_nothing_where_the_options_decide(loaded, found, tmp_path):
    questions, rows = found
    others = [replace(point, kept=kept) for point, kept in zip(POINTS[:2], (1000, (7, 5)), strict=True)]
    for point, other in zip(POINTS, others, strict=False):
        assert other.settings() == point.settings()
        assert point.settings()["kept"] is None
    again, _ = evaluate_points(loaded, tmp_path, questions[:5], others)
    for ours, same in zip(rows, again, strict=False):
        assert all(ours[id]["kept"] == row["kept"] for id, row in same.items())


def test_only_real_positions_are_stored(found):
    questions, rows = found
    for ours in rows[:2]:
        row = ours[questions[0].id]
        assert len(set(row["positions"])) == list(row["kept"].values())[-1]
        assert min(row["positions"]) >= 0


def test_figures_are_means_over_the_numbers_that_remained(loaded, found):
    config, prompt = loaded.model.config, CostedPrompt(loaded.model.config, 20, 16, {}, "cpu")
    for point, rows in zip(POINTS, found[1], strict=True):
        records = list(rows.values())
        figures = prompt.figures(point, records)
        if "kept" not in records[0]:
            assert figures["tokens_left"] == 4
            assert summarize(records)["kept_mean"] is None
            continue
        costs = [
            prefill_cost(
                config,
                text_tokens=20,
                visual_tokens=16,
                stages=point.stages(prompt.num_layers),
                remaining={int(layer): left for layer, left in record["kept"].items()},
            )
            for record in records
        ]
        assert figures["flops"] == pytest.approx(sum(cost.total for cost in costs) / len(costs), abs=1)
        layer_mean = sum(cost.tokens_layer_mean for cost in costs) / len(costs)
        assert figures["tokens_layer_mean"] == pytest.approx(layer_mean)
        last = [list(record["kept"].values())[-1] for record in records]
        assert summarize(records)["kept_mean"] == pytest.approx(sum(last) / len(last))
