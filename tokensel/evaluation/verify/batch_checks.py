"""Checks that what runs together gives what runs alone: questions of a batch, and grid points of one pass."""

from collections.abc import Iterable, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from tokensel.data import Question
from tokensel.engine.reduce import reduce_tokens
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.answers import score_letters
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.verify.outcome import BATCHED, Outcome
from tokensel.evaluation.verify.subject import Subject


class _Memory:
    """Predictions of a grid point, kept in memory as `tokensel.evaluation.store.PointStore` keeps them in a file."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def stored_ids(self) -> Set[str]:
        return self.rows.keys()

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows |= {row["id"]: row for row in rows}


def grid(subject: Subject) -> list[GridPoint]:
    """Points whose choice no rounding can change, of all layers, with and without cross-attention."""
    first, middle, last = subject.layers[0], subject.middle, subject.layers[-1]
    kept = subject.kept
    gathers: dict[str, Any] = {"aggregation": "cross_attention", "position": "front"}
    return [
        GridPoint("full"),
        GridPoint("no_image", agg_layer=0),
        GridPoint("random", kept, first),
        GridPoint("random", kept, middle, seed=1, position="renumber"),
        GridPoint("random", kept, middle, temperature=0.5, seed=2, **gathers),
        GridPoint("random", kept, first, temperature=0.05, seed=2, **gathers),
        GridPoint("random", kept, last, seed=3),
        GridPoint("grid", kept, middle),
    ]


def name_of(point: GridPoint) -> str:
    names = ("kept", "agg_layer", "temperature", "seed")
    return " ".join([point.method, *(f"{name}={getattr(point, name)}" for name in names)])


@torch.no_grad()
def one_by_one(subject: Subject, question: Question, point: GridPoint) -> Tensor:
    """The logits [1, V] of one prompt at one point, by the model's own forward."""
    settings = {name: value for name, value in point.reduction().items() if name != "precision"}
    settings["temperature"] = point.temperature  # as given, whatever `reduction` says
    keys = subject.keys([question])
    with reduce_tokens(subject.model, point.make_method(), row_keys=keys, **settings):
        return subject.model(**subject.alone(question), use_cache=False).logits[:, -1]


@torch.no_grad()
def check_batch(subject: Subject) -> Outcome:
    """Prompts of unequal lengths, padded to one batch: the logits and answers of each alone."""
    asked = subject.questions
    outcome = Outcome(f"{len(asked)} prompts in a batch = each alone", tolerance=BATCHED[subject.dtype])
    ids = [subject.loaded.answer_ids(question) for question in asked]
    inputs, keys = subject.loaded.prepare(asked), subject.keys(asked)
    for point in grid(subject)[2:6]:
        settings = {name: value for name, value in point.reduction().items() if name != "precision"}
        with reduce_tokens(subject.model, point.make_method(), row_keys=keys, **settings):
            together = subject.model(**inputs, use_cache=False).logits[:, -1]
        alone = torch.cat([one_by_one(subject, question, point) for question in asked])
        for row, question in enumerate(asked):
            what = f"{name_of(point)} {question.id}"
            outcome.compare(what, together[row], alone[row])
            _same_answer(outcome, what, together[row], alone[row], ids[row])
    return outcome


def _same_answer(outcome: Outcome, what: str, found: Tensor, expected: Tensor, ids: list[int]) -> None:
    """Notes another answer, unless the two hang on a tie within the tolerance."""
    one, other = (int(logits[ids].argmax()) for logits in (found, expected))
    if one != other:
        assert outcome.tolerance is not None
        margin = float((expected[ids[other]] - expected[ids[one]]).abs() / expected.abs().amax())
        outcome.expect(margin <= outcome.tolerance, f"{what}: another answer, {one} and not {other}")


@torch.no_grad()
def check_one_pass(subject: Subject) -> Outcome:
    """Grid points that share one pass over the questions: the answers and margins of each point and question alone."""
    asked, points = subject.questions, grid(subject)
    text = f"{len(points)} grid points in one pass = each alone"
    outcome = Outcome(text, tolerance=BATCHED[subject.dtype])
    stores = [_Memory() for _ in points]
    failures = evaluate(subject.loaded, asked, points, stores, batch_size=len(asked))
    for index, error in failures.items():
        outcome.expect(False, f"{name_of(points[index])}: {error}")
    for index, point in enumerate(points):
        if index not in failures:
            _compare_answers(subject, outcome, point, stores[index].rows, asked)
    return outcome


def _compare_answers(
    subject: Subject, outcome: Outcome, point: GridPoint, found: dict[str, dict[str, Any]], asked: Sequence[Question]
) -> None:
    """Margins are compared relative to the largest logit, as logits are."""
    for question in asked:
        what = f"{name_of(point)} {question.id}"
        logits = one_by_one(subject, question, point)
        (alone,) = score_letters(logits, [question], [subject.loaded.answer_ids(question)])
        together, largest = found[question.id], float(logits.abs().amax())
        same = together["prediction"] == alone["prediction"]
        # Of another answer the margin counts from the other side.
        margins = torch.tensor([together["margin"] if same else -together["margin"], largest])
        outcome.compare(what, margins, torch.tensor([alone["margin"], largest]))
