"""A fixed pseudo-random order of questions, from which a limit takes the first ones."""

import hashlib

from tokensel.data.question import Question


def draw_order(question: Question) -> tuple[str, str]:
    """A sort key that puts questions into a fixed pseudo-random order.

    Yes/no questions of one category about one picture stay together, because MME scores them in pairs; so do questions
    of one group.
    """
    own = stable_hash(question.id)
    if question.group:
        return (stable_hash("group", question.group), own)
    return (stable_hash(question.category, question.image_id), own) if question.form == "yes_no" else (own, "")


def stable_hash(*parts: str) -> str:
    """A hexadecimal digest of the parts. Unlike `hash`, it is the same in every process."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
