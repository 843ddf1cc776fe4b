"""The errors that a user's mistakes raise, and helpers for their messages.

May import nothing of tokensel. Imported by every package.
"""

import difflib
from collections.abc import Iterable

# Of a value in a message, in characters.
_LONGEST = 200


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
        raise TokenselError(f"{key}={value}: unknown; choose one of {', '.join(allowed)}{meant(value, allowed)}")


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: "; did you mean X?", or "" if none of the known words is close."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def as_typed(value: object) -> str:
    """A setting's value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_typed(item)}" for key, item in value.items()) + "}"
    text = printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def printable(text: str) -> str:
    """The text in one line: whatever a terminal does not show as a letter is written as in Python."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def first_line(error: BaseException) -> str:
    """The first line of the error's message, or the name of its class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
