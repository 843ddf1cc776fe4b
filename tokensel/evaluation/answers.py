"""From logits to predictions, as records for a point's predictions.jsonl."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensel.data import Question, stable_hash


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


def add_positions(
    records: list[dict[str, Any]], questions: Sequence[Question], positions: Tensor | None, wanted: Collection[str]
) -> list[dict[str, Any]]:
    """Adds the kept visual tokens to the records of the wanted question ids, as indices into the picture's grid.

    positions: LongTensor[B, M], or None if nothing was removed; then no record changes.
    """
    if positions is None or not any(question.id in wanted for question in questions):
        return records
    return [
        record | {"positions": kept} if question.id in wanted and question.image is not None else record
        for record, question, kept in zip(records, questions, positions.tolist(), strict=True)
    ]


def row_keys(questions: Sequence[Question], device: torch.device) -> Tensor:
    """LongTensor[B], one key per question. Methods draw their random choices from it and their seed."""
    return torch.tensor([int(stable_hash(question.id)[:15], 16) for question in questions], device=device)
