"""From logits to predictions, as records for a point's predictions.jsonl."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from tokensel.data import Question, stable_hash
from tokensel.engine.running import Record
from tokensel.engine.stages import Stage
from tokensel.engine.state import State
from tokensel.engine.ties import TieWatch
from tokensel.models import LoadedModel

# Enough for "The answer is B.". LLaVA's own limit is 1024; only answers that never name a letter are longer.
ANSWER_TOKENS = 16


def score_letters(
    logits: Tensor, questions: Sequence[Question], answer_ids: Sequence[list[int]]
) -> list[dict[str, Any]]:
    """The best answer of each question by its first token's logit, and its margin over the second best.

    logits [B, V] at the position where the answer begins. answer_ids: for each question, the token ids that begin its
    possible answers (its letters, or yes and no).

    Raises FloatingPointError if one of the two best logits is not finite.
    """
    logits = logits.float().cpu()
    records = []
    for row, question, ids in zip(logits, questions, answer_ids, strict=True):
        scores = row[ids]
        best = scores.topk(min(2, len(scores)))
        if not torch.isfinite(best.values).all():
            raise FloatingPointError(f"question {question.id}: the letters' logits are {best.values.tolist()}")
        margin = (best.values[0] - best.values[-1]).item()
        records.append({"prediction": int(best.indices[0]), "margin": round(margin, 6)})
    return records


def read_answers(loaded: LoadedModel, questions: Sequence[Question], written: Tensor) -> list[dict[str, Any]]:
    """Reads the answers out of written tokens, LongTensor[B, n], by the model's protocol."""
    texts = loaded.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [read_text(loaded, question, text) for text, question in zip(texts, questions, strict=True)]


def read_text(loaded: LoadedModel, question: Question, text: str) -> dict[str, Any]:
    """The answer in a written text, which ends before the first of the question's `until`."""
    text = text[: text_end(text, question.until)]
    prediction = loaded.protocol.read(text, question) if question.choices else None
    return {"prediction": prediction, "margin": None, "text": text}


def text_end(text: str, until: Sequence[str]) -> int:
    """Where a written text ends: at the first of these texts, or behind its last character."""
    return min((place for stop in until if stop and (place := text.find(stop)) >= 0), default=len(text))


class FiniteLogits(LogitsProcessor):
    """For generate(): raises FloatingPointError, instead of choosing, where a row's largest logit is not finite."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not bool(scores.amax(-1).isfinite().all()):
            raise FloatingPointError("logits of a written answer are not finite")
        return scores


def greedy_settings(max_new_tokens: int = ANSWER_TOKENS) -> dict[str, Any]:
    """How generate() writes answers."""
    return {"do_sample": False, "max_new_tokens": max_new_tokens, "logits_processor": [FiniteLogits()]}


def add_ties(
    records: list[dict[str, Any]], questions: Sequence[Question], watch: TieWatch | None
) -> list[dict[str, Any]]:
    """Adds to each record whether its choice of visual tokens hangs on a tie, if that was watched.

    watch: of the stages that reduced the questions. A point that chooses nothing gets no such entry.
    """
    tied = None if watch is None else watch.of(row_keys(questions))
    if tied is None:
        return records
    return [record | {"tied_choice": each} for record, each in zip(records, tied, strict=True)]


def add_choice(
    records: list[dict[str, Any]],
    questions: Sequence[Question],
    chosen: State | Record,
    stages: Sequence[Stage],
    wanted: Collection[str],
) -> list[dict[str, Any]]:
    """Adds what was chosen of the pictures: how many visual tokens remain, where that depends on the picture, as
    {"kept": {"4": 37}} by layer; and to the records of the wanted question ids which ones, as indices into the grid.

    chosen: the reduced prompts; rows behind the questions' are ignored. Padding, and tokens that are none of the
    picture's, are not among the indices. Records of questions without a picture do not change.
    """
    records = _add_kept(records, questions, chosen.remaining, stages)
    positions = None if chosen.positions is None else chosen.positions[: len(records)]
    return _add_positions(records, questions, positions, wanted)


def varies(stages: Sequence[Stage]) -> bool:
    """Whether the number of visual tokens that remain depends on the picture."""
    return any(not stage.method.passes_through and stage.remaining(1, 2) is None for stage in stages)


def _add_kept(
    records: list[dict[str, Any]],
    questions: Sequence[Question],
    remaining: Mapping[int, Tensor],
    stages: Sequence[Stage],
) -> list[dict[str, Any]]:
    if not varies(stages):
        return records
    counts = {str(layer): each.tolist() for layer, each in sorted(remaining.items())}
    return [
        record | {"kept": {layer: each[row] for layer, each in counts.items()}} if question.is_visual else record
        for row, (record, question) in enumerate(zip(records, questions, strict=True))
    ]


def _add_positions(
    records: list[dict[str, Any]], questions: Sequence[Question], positions: Tensor | None, wanted: Collection[str]
) -> list[dict[str, Any]]:
    if positions is None or not any(question.id in wanted for question in questions):
        return records
    return [
        record | {"positions": [each for each in kept if each >= 0]}
        if question.id in wanted and question.is_visual
        else record
        for record, question, kept in zip(records, questions, positions.tolist(), strict=True)
    ]


def row_keys(questions: Sequence[Question], device: torch.device | str = "cpu") -> Tensor:
    """LongTensor[B], one key per question. Methods draw their random choices from it and their seed."""
    return torch.tensor([int(stable_hash(question.id)[:15], 16) for question in questions], device=device)
