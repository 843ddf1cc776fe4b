"""The errors that a user's mistakes raise, and helpers for their messages.

May import nothing of tokensel. Imported by every package.
"""

from collections.abc import Iterable


class TokenselError(ValueError):
    """A user's mistake. The message is one line: key=value, what is wrong, and what is allowed."""


class BadSampleError(TokenselError):
    """A question whose picture is missing or broken, or whose text cannot be used in a prompt.

    question_id: the question's id, so that a sweep can skip and report it.
    """

    def __init__(self, message: str, question_id: str = "") -> None:
        super().__init__(message)
        self.question_id = question_id


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises TokenselError, which lists the allowed values, unless `value` is one of them."""
    allowed = list(allowed)
    if value not in allowed:
        raise TokenselError(f"{key}={value}: unknown; choose one of {', '.join(allowed)}")


def first_line(error: BaseException) -> str:
    """The first line of the error's message, or the name of its class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
