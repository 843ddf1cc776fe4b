"""Digests of questions, for keys and for stored figures."""

import hashlib
from collections.abc import Sequence

from tokensel.data import Question
from tokensel.evaluation import question_ids


def questions_digest(questions: Sequence[Question]) -> str:
    """A digest of all questions. Pictures count by their ids: the data set's code or files determine the rest."""
    digest = hashlib.sha256()
    for question in sorted(questions, key=lambda question: question.id):
        parts = (
            question.id,
            question.image_id,
            question.hint,
            question.text,
            *question.choices,
            str(question.answer),
            question.form,
        )
        digest.update("\x1f".join(parts).encode() + b"\x1e")
    return digest.hexdigest()[:16]


def ids_digest(questions: Sequence[Question]) -> str:
    """A digest of which questions were asked, see `tokensel.evaluation.question_ids.ids_digest`."""
    return question_ids.ids_digest(question.id for question in questions)
