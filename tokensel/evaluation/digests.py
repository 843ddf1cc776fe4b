"""Digests of questions, for keys and for stored figures."""

import hashlib
from collections.abc import Iterator, Sequence

from tokensel.data import Question
from tokensel.evaluation import question_ids

_PLAIN = Question("", "", ("yes", "no"), 0, None)


def questions_digest(questions: Sequence[Question]) -> str:
    """A digest of all questions. Pictures and videos count by their ids: the data set's code or files determine the
    rest."""
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
            *_beyond_choices(question),
        )
        digest.update("\x1f".join(parts).encode() + b"\x1e")
    return digest.hexdigest()[:16]


def _beyond_choices(question: Question) -> Iterator[str]:
    """What only some questions have, each with its name."""
    for name in ("answers", "scorer", "instruction", "max_new_tokens", "until"):
        if (value := getattr(question, name)) != getattr(_PLAIN, name):
            yield f"{name}={value!r}"
    if question.video is not None:
        yield f"video={question.frames}"
    if question.benchmark is not None:
        yield f"benchmark={question.benchmark.digest}"
    if question.turns:
        yield f"turns={questions_digest(question.turns)}"


def ids_digest(questions: Sequence[Question]) -> str:
    """A digest of which questions were asked, see `tokensel.evaluation.question_ids.ids_digest`."""
    return question_ids.ids_digest(question.id for question in questions)
