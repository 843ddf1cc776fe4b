"""The multiple-choice prompt of LLaVA's evaluation, and its reading of a written answer."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokensel.data import Question

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INSTRUCTION = "Answer with the option's letter from the given choices directly."

_STATED_ANSWER = re.compile(r"The answer is ([A-Z])\.")


def build_prompt(question: "Question") -> str:
    """The question as LLaVA's ScienceQA evaluation words it, without the picture and the conversation.

    Context: {hint}          only if there is a hint
    {text}
    A. {choice}              one line per choice
    Answer with the option's letter from the given choices directly.
    """
    hint = [f"Context: {question.hint}"] if question.hint else []
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    return "\n".join([*hint, question.text, *choices, INSTRUCTION])


def read_answer(text: str, n_choices: int) -> int | None:
    """The index of the choice that a written answer names, or None if it names none: scored as wrong.

    LLaVA's reading (eval_science_qa.py): the whole text is an option's letter; or it begins with one and
    ". "; or it says "The answer is X." exactly once. A letter beyond the question's own choices names none.
    """
    text = text.strip()
    # LLaVA knows A to E whatever the question: "D. The answer is B." says D even where there is no D.
    options = LETTERS[: max(5, n_choices)]
    letter = None
    if text[:1] and text[0] in options and text[1:3] in ("", ". "):
        letter = text[0]
    else:
        stated = _STATED_ANSWER.findall(text)
        if len(stated) == 1:
            letter = stated[0]
    return LETTERS.index(letter) if letter in tuple(LETTERS[:n_choices]) else None
