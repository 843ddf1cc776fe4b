"""The order in which questions and points are evaluated, how questions are cut into batches, how many run at once."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from tokensel.data import Question, stable_hash
from tokensel.engine.stages import Stage
from tokensel.methods import Method
from tokensel.models import LoadedModel

# Batches that a CPU evaluates in parallel, each with its share of the threads.
MOST_WORKERS = 4


def order_questions(questions: Sequence[Question]) -> list[Question]:
    """Sorts questions by picture and prompt length, always in the same way.

    Questions about one picture are neighbours, so a batch encodes it once. Prompts of similar length are neighbours,
    so a batch needs little padding.
    """
    longest: dict[str, int] = {}
    for question in questions:
        length = len(question.text) + len(question.hint) + sum(map(len, question.choices))
        longest[question.image_id] = max(length, longest.get(question.image_id, 0))
    return sorted(questions, key=lambda q: (longest[q.image_id], stable_hash(q.image_id), stable_hash(q.id)))


def cut_batches(questions: list[Question], size: int) -> Iterator[list[Question]]:
    """Batches of at most `size` questions, of nearly equal length.

    If there are several, their number is a multiple of MOST_WORKERS, so that parallel workers finish together. The cut
    depends on the questions and the size only: a question has the same neighbours in every run.
    """
    # Questions about pictures, videos and neither never share a batch: its rows must hold equally many visual tokens.
    for kind in ((True, False), (True, True), (False, False)):
        alike = [question for question in questions if (question.is_visual, question.video is not None) == kind]
        count = math.ceil(len(alike) / size)
        if count >= MOST_WORKERS:
            count = MOST_WORKERS * math.ceil(count / MOST_WORKERS)
        begin = 0
        for index in range(count):
            end = len(alike) * (index + 1) // count
            yield alike[begin:end]
            begin = end


def count_workers(loaded: LoadedModel, methods: Sequence[Method]) -> int:
    """How many batches are computed in parallel. On a CPU, a batch per thread is faster than all threads on one batch.

    1 where parallel batches could interfere: through hooks on the model, or a user's method, which may keep state.
    """
    if loaded.device.type != "cpu":
        return 1
    config = loaded.model.config
    if any(method.reads_tower(config) or not type(method).__module__.startswith("tokensel.") for method in methods):
        return 1
    return min(MOST_WORKERS, torch.get_num_threads())


def in_turn(stages: Mapping[int, Sequence[Stage]], count: int) -> list[int]:
    """The points in an order that lets them share most: those that reduce early come first, so that the shared layers
    run once, and of these the ones that keep most of `count` tokens, whose order of choice begins as all others do."""

    def turn(index: int) -> tuple[int, int]:
        first = stages[index][0]
        return first.layer, 0 if first.method.passes_through else -first.kept_of(count)

    return sorted(stages, key=turn)
