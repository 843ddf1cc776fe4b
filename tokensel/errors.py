"""The errors that a user's mistakes raise, and helpers for their messages.

May import nothing of tokensel. Imported by every package.
"""

from collections.abc import Iterable


class TokenselError(ValueError):
    """A user's mistake. The message is one line that names the key, the value and what is allowed."""


class BadSampleError(TokenselError):
    """A question whose picture is missing or broken.

    question_id: the id of the question, so that a sweep can skip it and say so.
    """

    def __init__(self, message: str, question_id: str = "") -> None:
        super().__init__(message)
        self.question_id = question_id


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises TokenselError, which lists what is allowed, unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise TokenselError(f"{key}={value}: unknown; choose one of {', '.join(allowed)}")


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
