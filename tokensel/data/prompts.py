"""The wording of a question as in ScienceQA's evaluations, and three ways to read a written answer."""

import re

from tokensel.data.question import LETTERS, Question

INSTRUCTION = "Answer with the option's letter from the given choices directly."
YES_NO_INSTRUCTION = "Answer the question using a single word or phrase."
#: Where the pictures stand in a text.
PICTURE = "<image>"
#: Where a video stands in the words of some training files; others write PICTURE.
VIDEO = "<video>"
READINGS = ("llava", "lmms", "exact")

_STATED_ANSWER = re.compile(r"The answer is ([A-Z])\.")


def question_words(question: Question) -> str:
    """The question without picture and instruction:

    Context: {hint}          only if there is a hint
    {text}
    A. {choice}              one line per choice; only for lettered choices
    """
    hint = [f"Context: {question.hint}"] if question.hint else []
    choices = zip(LETTERS, question.choices, strict=False) if question.form == "choices" else []
    return "\n".join([*hint, question.text, *(f"{letter}. {choice}" for letter, choice in choices)])


def instruction(question: Question) -> str:
    """What states the form of the answer: the question's own words, or the line for its form; "" for none."""
    if question.instruction is not None:
        return question.instruction
    return {"choices": INSTRUCTION, "options": ""}.get(question.form, YES_NO_INSTRUCTION)


def is_yes_no(question: Question) -> bool:
    """Whether the answer is the word yes or no, rather than a letter."""
    return question.form == "yes_no"


def build_prompt(question: Question) -> str:
    """The question's words and, on a line of its own, the instruction; without picture and conversation template."""
    return with_instruction(question, question_words(question))


def with_instruction(question: Question, words: str) -> str:
    """The words and, on a line of its own, the instruction, if there is one."""
    ending = instruction(question)
    return f"{words}\n{ending}" if ending else words


def read_answer(text: str, n_choices: int, reading: str = "llava") -> int | None:
    """The index of the choice whose letter a written answer names; None if it names none, which is scored as wrong.

    Readings:

    - `llava`, as in LLaVA's eval_science_qa.py: the whole text is an option's letter, or begins with one and ". ", or
      contains "The answer is X." exactly once.
    - `lmms`, as in lmms-eval's scienceqa: the text is the letter in either case, or begins with it and ".".
    - `exact`: the text is the letter.

    Surrounding white space is ignored. A letter beyond the question's own choices names none.
    """
    text = text.strip()
    letters = LETTERS[:n_choices]
    # LLaVA always accepts A to E: "D. The answer is B." names D even in a question without D.
    options = LETTERS[: max(5, n_choices)]
    letter = {"llava": _llava_letter(text, options), "lmms": _lmms_letter(text), "exact": text}[reading]
    return letters.index(letter) if letter in tuple(letters) else None


def read_yes_no(text: str) -> str | None:
    """ "yes" or "no" if that is the first word of a written answer, in either case; else None."""
    word = re.match(r"[\W_]*([^\W_]+)", text)
    return word[1].lower() if word and word[1].lower() in ("yes", "no") else None


def _lmms_letter(text: str) -> str:
    return text[0] if text[:1].isupper() and text[1:2] == "." else text.upper()


def _llava_letter(text: str, options: str) -> str | None:
    if text[:1] and text[0] in options and text[1:3] in ("", ". "):
        return text[0]
    stated = _STATED_ANSWER.findall(text)
    return stated[0] if len(stated) == 1 else None
