"""Every prediction that changes with the batch is one that says it hangs on a tie: every method, and its options.

TOKENSEL_QUESTIONS=200 pytest -n 0 -s tests/evaluation/test_ties_in_batches.py     prints the counts; 20 minutes
"""

import os
import random

import pytest
from helpers.evaluation import evaluate_points

from tokensel import METHODS
from tokensel.data import load_questions
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.summary import hangs_on_a_tie
from tokensel.models import load_model

COUNT = int(os.environ.get("TOKENSEL_QUESTIONS", "3"))
KEPT = 16
OWN = sorted(name for name, kind in METHODS.items() if kind.__module__.startswith("tokensel."))
OPTIONS = [
    *(
        GridPoint(method, KEPT, method_options=options)
        for method, options in (
            ("dart", {"exact": True}),
            ("fastv", {"heads": "max_head"}),
            ("fastv", {"heads": "weighted"}),
            ("feather", {"rotary": True}),
            ("flowcut", {"as_released": True}),
            ("fps", {"start": "peripheral"}),
            ("fps", {"start": None}),
            ("holov", {"as_released": True}),
            ("mmtok", {"as_released": True}),
            ("pact", {"clustering": False}),
            ("prumerge_plus", {"as_released": True}),
            ("prunesid", {"as_released": True}),
            ("prunesid", {"exact": True}),
            ("sparsevlm", {"version": 2}),
            ("tome_merge", {"proportional": True}),
            ("visionzip", {"cls": False}),
            ("vscan", {"rotary": False}),
        )
    ),
    GridPoint("fps", KEPT, aggregation="mean"),
    GridPoint("prumerge", KEPT, method_options={"adaptive": True}),
    GridPoint("random", KEPT, layout="mask"),
]
# With few questions a part of them, one of each way to choose.
POINTS = [*(GridPoint(name, KEPT if METHODS[name].takes_kept() else None) for name in OWN), *OPTIONS]
SOME = [GridPoint(name, KEPT) for name in ("fps", "visionzip", "tome_merge", "random")] + OPTIONS[1:3]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The points, and their predictions at three batch sizes, shuffled in the last."""
    loaded, questions = load_model("tiny"), load_questions("diagrams", limit=COUNT)
    points = POINTS if COUNT >= 20 else SOME
    found = []
    for size in (1, 5, 8):
        folder = tmp_path_factory.mktemp(f"batch{size}")
        asked = random.Random(7).sample(questions, len(questions)) if size == 8 else questions
        predicted, failures = evaluate_points(loaded, folder, asked, points, batch_size=size, check_ties=True)
        assert not failures
        found.append(predicted)
    return points, found


@pytest.mark.slow
def test_each_prediction_that_differs_between_batches_is_flagged(runs):
    points, (alone, *batched) = runs
    unflagged = []
    for index, point in enumerate(points):
        differing = flagged = 0
        for id, one in alone[index].items():
            others = [predicted[index][id] for predicted in batched]
            if any(other["prediction"] != one["prediction"] for other in others):
                differing += 1
                if any(map(hangs_on_a_tie, [one, *others])):
                    flagged += 1
                else:
                    unflagged.append((point.method, dict(point.method_options), id))
        ties = sum(map(hangs_on_a_tie, alone[index].values()))
        options = " ".join(f"{name}={value}" for name, value in point.method_options.items())
        print(f"{point.method} {options}: {differing} of {COUNT} differ, {flagged} flagged; {ties} hang on a tie")
    assert not unflagged


def test_points_that_choose_say_of_every_answer_whether_it_hangs_on_a_tie(runs):
    points, (alone, *_) = runs
    for point, predicted in zip(points, alone, strict=True):
        checked = {record.get("tied_choice") for record in predicted.values()}
        expected = {None} if point.method == "full" else {True, False}
        assert checked <= expected, point.method
