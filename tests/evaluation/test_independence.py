"""A prediction depends on its question alone: not on the batch, the order, the other points, or prefix sharing.

TOKENSEL_QUESTIONS=200 pytest tests/evaluation/test_independence.py     as many questions as a sweep has by default
"""

import os
import random

import pytest
import torch
from helpers.evaluation import assert_same_predictions, evaluate_points

from tokensel import reduce_tokens
from tokensel.data import load_questions
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import load_model

COUNT = int(os.environ.get("TOKENSEL_QUESTIONS", "3"))
# Not tome: of tokens that are all but alike it takes the first by a sum, so rounding may choose (1 of 200 questions, by
# 0.003 in the margin, with the same answer).
POINTS = [
    GridPoint("full"),
    GridPoint("fps", 16),
    GridPoint("fastv", 16),
    GridPoint("random", 16),
    GridPoint("himap", 16),
    GridPoint("visionzip", 16),
]
CLOSE = 1e-4  # logits, float32


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny")


@pytest.fixture(scope="module")
def questions():
    return load_questions("diagrams", limit=COUNT)


def predict(loaded, questions, points, folder, batch_size):
    found, failures = evaluate_points(loaded, folder / str(batch_size), questions, points, batch_size=batch_size)
    assert not failures
    return found


@pytest.fixture(scope="module")
def one_by_one(loaded, questions, tmp_path_factory):
    return predict(loaded, questions, POINTS, tmp_path_factory.mktemp("alone"), 1)


def agree(found, expected):
    assert_same_predictions(found, expected, tolerance=2 * CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 16])
def test_predictions_do_not_depend_on_the_batch_size(loaded, questions, one_by_one, tmp_path, batch_size):
    agree(predict(loaded, questions, POINTS, tmp_path, batch_size), one_by_one)


def test_predictions_do_not_depend_on_the_order(loaded, questions, one_by_one, tmp_path):
    shuffled = random.Random(5).sample(questions, len(questions))
    agree(predict(loaded, shuffled, POINTS, tmp_path, 7), one_by_one)


def test_predictions_do_not_depend_on_the_points_beside_them(loaded, questions, one_by_one, tmp_path):
    for place in (1, 4):
        agree(predict(loaded, questions, [POINTS[place]], tmp_path / str(place), 1), [one_by_one[place]])


@torch.no_grad()
def test_a_shared_prefix_gives_what_the_whole_model_gives(loaded, questions, one_by_one):
    for question in questions:
        inputs, keys = loaded.prepare([question]), row_keys([question], loaded.device)
        for point, rows in zip(POINTS, one_by_one, strict=True):
            with reduce_tokens(loaded.model, point.make_method(), row_keys=keys, **point.reduction()):
                scores = loaded.model(**inputs, logits_to_keep=1).logits[0, -1, loaded.answer_ids(question)]
            best = scores.topk(2).values
            assert int(scores.argmax()) == rows[question.id]["prediction"], (point.method, question.id)
            assert abs(float(best[0] - best[1]) - rows[question.id]["margin"]) < 2 * CLOSE
