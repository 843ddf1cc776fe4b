"""The ways to answer a batch: by the letters' logits, in words, or by the likelihood of each option.

Each shares the pictures and the layers below a point's first stage among all points.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokensel.data import Question
from tokensel.engine.kept import Kept
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.engine.writing import Decoding, Writer, stop_tokens
from tokensel.errors import TokenselError
from tokensel.evaluation.answers import (
    ANSWER_TOKENS,
    read_answers,
    score_letters,
    text_end,
)
from tokensel.evaluation.batches import in_turn
from tokensel.models import LoadedModel
from tokensel.models.loaded import Encoded

# An answer that a text may end is looked at in steps of so many tokens: decoding it takes longer than a small model.
_LOOK_EVERY = 4


@dataclass(frozen=True)
class Way:
    """How questions are answered. Questions of one way may run together.

    name: letter, generate or options. max_new_tokens, until: of written answers. alone: the id of a question that runs
    by itself, because its conversation goes on, or because padding would count.
    """

    name: str
    max_new_tokens: int = 0
    until: tuple[str, ...] = ()
    alone: str = ""


def way_of(question: Question, scoring: str, padding_counts: bool = False) -> Way:
    """How a question is answered. scoring: of questions with lettered choices, or yes and no. padding_counts: whether
    the model sees the padding between a prompt and what follows it."""
    if question.form == "options":
        return Way("options", alone=question.id if padding_counts else "")
    if scoring == "letter" and not question.is_written:
        return Way("letter")
    tokens = question.max_new_tokens or ANSWER_TOKENS
    return Way("generate", tokens, question.until, question.id if question.turns else "")


@dataclass(frozen=True)
class Group:
    """Questions of a batch that run together, as tensors.

    answer_ids: by letters, the token ids that begin each question's answers. option_ids: by options, the token ids of
    each of its options. kept: to how many patches its pictures are reduced; None: they are as they are.
    """

    questions: list[Question]
    encoded: Encoded
    way: Way
    answer_ids: list[list[int]] = field(default_factory=list)
    option_ids: list[list[list[int]]] = field(default_factory=list)
    kept: Kept | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a point: its reduced prompts and what is known of each answer, or what it raised."""

    index: int
    reduced: State | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None


#: Answers one point: its stages, and the prompts about to enter the first of these.
Answer = Callable[[Sequence[Stage], State], tuple[State, list[dict[str, Any]]]]


def answer_group(
    loaded: LoadedModel, split: SplitModel, group: Group, state: State, stages: dict[int, list[Stage]]
) -> Iterator[Outcome]:
    """Answers the group for every point, those that reduce early first. state: the prompts about to enter layer 0."""
    state, answer = _beginnings(loaded, split, group, state)
    for index in in_turn(stages, state.visual_index.shape[1]):
        try:
            state = split.run(state, min(stages[index][0].layer, split.num_layers))
            yield Outcome(index, *answer(stages[index], state))
        except Exception as error:  # a user's method may raise anything; the other points go on
            yield Outcome(index, error=error)


def _beginnings(loaded: LoadedModel, split: SplitModel, group: Group, state: State) -> tuple[State, Answer]:
    """The prompts as the group's way begins with them, and how it answers a point."""
    if group.way.name == "letter":

        def by_letters(stages: Sequence[Stage], state: State) -> tuple[State, list[dict[str, Any]]]:
            reduced = split.reduce_all(state, stages)
            return reduced, score_letters(split.logits(reduced), group.questions, group.answer_ids)

        return state, by_letters
    writer = Writer(split)
    state = writer.begin(state, group.way.max_new_tokens)

    def in_words(stages: Sequence[Stage], state: State) -> tuple[State, list[dict[str, Any]]]:
        decoding = writer.prefill(state, stages)
        if group.way.alone:
            return decoding.state, [_converse(loaded, writer, group.questions[0], decoding)]
        return decoding.state, read_answers(loaded, group.questions, _write(loaded, writer, group.way, decoding))

    def by_options(stages: Sequence[Stage], state: State) -> tuple[State, list[dict[str, Any]]]:
        decoding = writer.prefill(state, stages)
        return decoding.state, _likeliest(writer, group, decoding)

    return state, in_words if group.way.name == "generate" else by_options


def _write(loaded: LoadedModel, writer: Writer, way: Way, decoding: Decoding, logits: Tensor | None = None) -> Tensor:
    """The tokens of each row's answer, by greedy decoding."""
    stop, pad = stop_tokens(loaded.model.generation_config)
    tokenizer = loaded.processor.tokenizer

    def ends_text(written: Tensor) -> Tensor:
        if written.shape[1] % _LOOK_EVERY:
            return torch.zeros(len(written), dtype=torch.bool, device=written.device)
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return torch.tensor([text_end(each, way.until) < len(each) for each in texts], device=written.device)

    logits = decoding.logits if logits is None else logits
    looks = ends_text if way.until and way.max_new_tokens > _LOOK_EVERY else None
    return writer.write(decoding, logits, way.max_new_tokens, stop, pad, looks)


def _converse(loaded: LoadedModel, writer: Writer, question: Question, decoding: Decoding) -> dict[str, Any]:
    """The answers to all turns of one question: the record of the first, with the later ones under "turns".

    The cache holds the first prompt; a later turn adds all that was said since, as the conversation's template has it.
    """
    first = loaded.prompt(question)
    answers: list[dict[str, Any]] = []
    for turn in (question, *question.turns):
        answering, logits = writer.branch(decoding), decoding.logits
        if answers:
            whole = loaded.prompt(question, [answer["text"].strip() for answer in answers])
            if not whole.startswith(first):
                raise TokenselError(
                    f"question {question.id}: the chat template words the first turn otherwise once others follow; "
                    "questions of several turns need one that does not, or conv=vicuna_v1"
                )
            ids = torch.tensor([loaded.ids_behind(first, whole)], device=logits.device)
            logits = writer.follow(answering, ids)[:, -1]
        written = _write(loaded, writer, way_of(turn, "generate"), answering, logits)
        answers.append(read_answers(loaded, [turn], written)[0])
    return answers[0] | {"turns": answers[1:]}


def _likeliest(writer: Writer, group: Group, decoding: Decoding) -> list[dict[str, Any]]:
    """For each question its options' mean negative log-likelihoods, and the likeliest option."""
    most = max(map(len, group.option_ids))
    found: list[list[tuple[float, bool]]] = [[] for _ in group.questions]
    for number in range(most):
        rows = [row for row, options in enumerate(group.option_ids) if number < len(options)]
        # Rows without such an option run their first one again, so that the batch stays whole.
        options = [ids[number] if number < len(ids) else ids[0] for ids in group.option_ids]
        likelihoods = _likelihoods(writer, options, writer.branch(decoding))
        for row in rows:
            found[row].append(likelihoods[row])
    return [_of_options(question, options) for question, options in zip(group.questions, found, strict=True)]


def _likelihoods(writer: Writer, options: list[list[int]], decoding: Decoding) -> list[tuple[float, bool]]:
    """For each row's option, its tokens' mean negative log-likelihood, and whether greedy decoding would write it."""
    device, longest = decoding.logits.device, max(map(len, options))
    # What follows a row's option is never looked at: attention is causal.
    ids = torch.tensor([each + [each[-1]] * (longest - len(each)) for each in options], device=device)
    logits = decoding.logits.unsqueeze(1)
    if longest > 1:
        logits = torch.cat([logits, writer.follow(decoding, ids[:, :-1])], 1)
    log = logits.float().log_softmax(-1)
    taken = log.gather(2, ids.unsqueeze(2)).squeeze(2).cpu()
    greedy = (log.argmax(-1) == ids).cpu()
    return [
        (-float(taken[row, : len(each)].mean()), bool(greedy[row, : len(each)].all()))
        for row, each in enumerate(options)
    ]


def _of_options(question: Question, options: list[tuple[float, bool]]) -> dict[str, Any]:
    values = [value for value, _ in options]
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(f"question {question.id}: the options' likelihoods are {values}")
    order = sorted(range(len(values)), key=values.__getitem__)
    margin = values[order[1]] - values[order[0]] if len(order) > 1 else 0.0
    return {"prediction": order[0], "margin": round(margin, 6), "options": options}
