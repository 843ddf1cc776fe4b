"""The fixed shuffle by which a limit draws its subset of the questions."""

import hashlib

from tokensel.data.question import Question


def draw_order(question: Question) -> tuple[str, str]:
    """Sorting by it is a fixed shuffle, of which a limit takes the first.

    Yes / no questions of one category about one picture are drawn together: MME scores them in pairs.
    """
    own = stable_hash(question.id)
    return (stable_hash(question.category, question.image_id), own) if question.form == "yes_no" else (own, "")


def stable_hash(*parts: str) -> str:
    """A digest of the parts, the same in every process, unlike `hash`: sorting by it is a fixed shuffle."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
