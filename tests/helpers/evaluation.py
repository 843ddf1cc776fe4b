"""Grid points, and their predictions by one evaluation into a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tokensel.data import Question
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.store import PointStore
from tokensel.models import LoadedModel

# With and without a picture, random choices, several layers and two layouts.
POINTS = [
    GridPoint("full"),
    GridPoint("no_image", agg_layer=0),
    GridPoint("fps", kept=4, agg_layer=2),
    GridPoint("fps", kept=4, agg_layer=0, method_options={"start": None}),
    GridPoint("tome", kept=6, agg_layer=3),
    GridPoint("fastv", kept=4, agg_layer=2),
    GridPoint("random", kept=4, agg_layer=4, seed=3),
    GridPoint("random", kept=4, agg_layer=1, layout="mask"),
]

# For each point its predictions by question id, in the order they were stored.
Predictions = list[dict[str, dict[str, Any]]]


def evaluate_points(
    loaded: LoadedModel,
    folder: Path,
    questions: Sequence[Question],
    points: Sequence[GridPoint] = POINTS,
    **options: Any,
) -> tuple[Predictions, dict[int, Exception]]:
    """The predictions of every point, and the failures by the point's index. options: those of `evaluate`."""
    stores = [PointStore(folder / str(index)) for index in range(len(points))]
    failures = evaluate(loaded, questions, points, stores, **options)
    return [{prediction["id"]: prediction for prediction in store.predictions()} for store in stores], failures


def assert_same_predictions(some: Predictions, others: Predictions, tolerance: float = 1e-4) -> None:
    """tolerance: how far the margins may lie apart."""
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for id, prediction in one.items():
            assert other[id]["prediction"] == prediction["prediction"], id
            assert other[id]["margin"] == pytest.approx(prediction["margin"], abs=tolerance), id
