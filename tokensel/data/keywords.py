"""The words of a question that a method compares with the picture, by MMTok's rules."""

import re

from tokensel.data.prompts import INSTRUCTION, YES_NO_INSTRUCTION
from tokensel.errors import TokenselError

IMAGE = "<image>"
NO_QUESTION = "What do you see in this image?"
LEFT_OUT = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "have",
        "has",
        "had",
        "do",
        "does",
        "did",
        "it",
        "they",
        "he",
        "she",
        "we",
        "you",
        "i",
        "what",
        "where",
        "when",
        "why",
        "how",
        "who",
        "which",
        "and",
        "or",
        "but",
        "so",
        "if",
        "then",
        "question",
        "answer",
        "to",
        "for",
        "with",
        "by",
        "from",
        "at",
        "into",
        "onto",
        "upon",
    ]
)


def question_of_message(message: str | None) -> str:
    """The question in a user's message: what follows the marks of its pictures.

    No message is a question of its own, NO_QUESTION. Raises TokenselError for a first line that mixes marks and words.
    """
    if not message:
        return NO_QUESTION
    if message.startswith(f"{IMAGE}\n"):
        return message.removeprefix(f"{IMAGE}\n")
    first, line_break, rest = message.partition("\n")
    if not message.startswith(f"{IMAGE} ") or not line_break:
        return message
    if set(first.split()) != {IMAGE}:
        raise TokenselError(f"message={first!r}: its first line must hold {IMAGE} marks alone, or none")
    return rest


def keywords(question: str) -> list[str]:
    """The words of a question without function words, question words and punctuation, in their order.

    Instructions how to answer are cut out first. If no word is left, the question's words stay as they are written.

    Source: MMTok (arXiv 2508.18264), its release's VQATextProcessor.
    """
    for instruction in (YES_NO_INSTRUCTION, INSTRUCTION):
        question = question.replace(instruction, "")
    words = [word for word in re.findall(r"\w+", question) if word.lower() not in LEFT_OUT]
    return words or question.split()
