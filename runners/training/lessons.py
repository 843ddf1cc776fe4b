"""What a training of an aggregator shows: questions up to the first reduction, with the full model's answers.

The layers below the reduction and the whole unreduced model run once for each question; a step then runs only the
short rest of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokensel.data import Question, draw_order
from tokensel.engine.attention import last_real
from tokensel.engine.forward import advance, reduce_all
from tokensel.engine.stages import Stage
from tokensel.engine.state import State
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.one_pass import Batch, OnePass
from tokensel.evaluation.ways import way_of
from tokensel.functional import take
from tokensel.models import LoadedModel
from tokensel.models.parts import ModelParts


@dataclass(frozen=True)
class Lesson:
    """Questions that run together.

    state: their prompts about to enter the layer of the first reduction. logits: the full model's at the answer's
    position, [B, V]. hidden: its text's hidden states about to enter `hidden_layer`, [B, S, D], and which of them are
    real, BoolTensor[B, S]; None if they are not matched. answer_ids: for each question, the token ids that begin its
    possible answers. answers: the index of each right one; -1 = none is known.
    """

    state: State
    logits: Tensor
    hidden: tuple[Tensor, Tensor] | None
    answer_ids: list[list[int]]
    answers: Tensor


def make_lessons(
    loaded: LoadedModel,
    questions: Sequence[Question],
    points: Sequence[GridPoint],
    batch_size: int,
    hidden_layer: int | None,
    progress: Callable[[int], None],
) -> list[Lesson]:
    """The lessons of these questions, in a fixed mixed order, in the memory of the model's device.

    points: what will be trained; the first says the layer, all say what their methods need. Questions whose picture is
    bad, and those in several pictures' shapes, are handled as in a sweep. progress: called with the questions done.

    Raises BadSampleError for the first question that cannot be asked.
    """
    run = OnePass(loaded, points)
    parts = run.split.parts
    stages = [point.stages(parts.num_layers) for point in points]
    first = stages[0][0].layer
    needs_previous = any(stage.method.uses_attention for each in stages for stage in each)
    lessons = []
    for batch in _batches(questions, batch_size):
        prepared = run.prepare(Batch(batch, lambda questions: [0]))
        for _, error in prepared.bad:
            raise error
        for group in prepared.groups:
            with torch.no_grad():
                state = run.split.run(run.embed(group, stages), first)
                hidden = None
                if hidden_layer is not None:
                    hidden = text_states(run.split.run(state, hidden_layer))
                logits = run.split.logits(state)
            if not needs_previous:
                state = replace(state, previous=None)
            ids = [run.answer_ids(question) if question.choices else [] for question in group.questions]
            answers = torch.tensor([question.answer if question.choices else -1 for question in group.questions])
            lessons.append(Lesson(state, logits, hidden, ids, answers))
        progress(len(batch))
    return lessons


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Batches of mixed questions: of similar ones, each step would pull towards its own family."""
    ordered = sorted(questions, key=draw_order)
    alike: dict[tuple[bool, bool, bool], list[Question]] = {}
    for question in ordered:
        kind = (question.is_visual, question.video is not None, way_of(question, "letter").name == "letter")
        alike.setdefault(kind, []).append(question)
    for members in alike.values():
        for begin in range(0, len(members), size):
            yield members[begin : begin + size]


def run_reduced(
    parts: ModelParts, lesson: Lesson, stages: Sequence[Stage], hidden_layer: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """The logits at the answers' position, [B, V], under these stages; and the text's hidden states about to enter
    `hidden_layer`, [B, S, D]. Gradients flow to the stages' aggregator, by the engine that every evaluation runs on."""
    state, hidden = reduce_all(parts, lesson.state, stages), None
    if hidden_layer is not None:
        state = advance(parts, state, hidden_layer)
        hidden = text_states(state)[0]
    if state.layer < parts.num_layers:
        state = advance(parts, state, parts.num_layers)
    where = last_real(state.attention_mask, state.hidden).to(state.hidden.device)
    assert parts.head is not None
    return parts.head(parts.decoder.norm(take(state.hidden, where)))[:, 0], hidden


def text_states(state: State) -> tuple[Tensor, Tensor]:
    """The hidden states of all tokens that are not visual, [B, S, D], in their order, and which of them are real."""
    visual = torch.zeros(state.hidden.shape[:2], dtype=torch.bool, device=state.hidden.device)
    visual = visual.scatter(1, state.visual_index, True)
    count = state.hidden.shape[1] - state.visual_index.shape[1]
    order = visual.to(torch.uint8).sort(dim=1, stable=True).indices[:, :count]
    real = state.attention_mask
    real = torch.ones_like(visual) if real is None else real.to(visual.device)
    return take(state.hidden, order), real.gather(1, order)
