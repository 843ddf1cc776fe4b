"""The form of a question from a user's file and its right answer, read from the fields that concern it, and checked."""

from collections.abc import Callable, Mapping
from typing import Any

from tokensel.data.prompts import read_answer
from tokensel.data.question import LETTERS, NO_CHOICE, YES_NO
from tokensel.data.scorers import PEOPLE, SCORERS
from tokensel.errors import TokenselError

#: Makes the error about an entry, from what is wrong with it.
Malformed = Callable[[str], TokenselError]
_WANTED = "give the letter or text of a choice; without choices, yes or no, or accepted answers in free text"


def read_form(fields: Mapping[str, Any], malformed: Malformed, by_text: bool = True) -> dict[str, Any]:
    """The form, choices, answer, answers and scorer of a question, as `Question` takes them.

    fields: choices, answer, answers and scorer, each of which may be missing. With choices the answer is the letter or
    the text of one; without, the answer yes or no makes a yes_no question, and everything else one in free text.
    by_text: false: only the letter counts, as in LLaVA's files.
    """
    choices, scorer = fields.get("choices") or [], fields.get("scorer")
    if not isinstance(choices, list) or not all(isinstance(each, str) for each in choices):
        raise malformed("choices must be a list of texts")
    if by_text and not all(each.strip() for each in choices):
        raise malformed("choices must be a list of texts, none of them empty")
    answer, answers = fields.get("answer"), fields.get("answers")
    if answer is not None and answers is not None:
        raise malformed("has both answer and answers; give one of them")
    if answers is None and not isinstance(answer, str):
        problem = "has no answer" if answer is None else f"answer must be text, not {type(answer).__name__}"
        raise malformed(f"{problem}; {_WANTED}")
    if choices:
        for name in ("answers", "scorer"):
            if fields.get(name) is not None:
                raise malformed(f"has choices and {name}; {name} is of free text, which has no choices")
        index = _index(str(answer), tuple(choices), malformed, by_text)
        return {"choices": tuple(choices), "answer": index, "form": "choices"}
    if answers is None and scorer is None:
        word = str(answer).strip().rstrip(".").capitalize()
        if word in YES_NO:
            return {"choices": YES_NO, "answer": YES_NO.index(word), "form": "yes_no"}
        _refuse_letter(str(answer), malformed)
    accepted = _accepted([answer] if answers is None else answers, malformed)
    named = "exact" if scorer is None else _scorer(scorer, accepted, malformed)
    return {"choices": (), "answer": NO_CHOICE, "form": "text", "answers": accepted, "scorer": named}


def _index(answer: str, choices: tuple[str, ...], malformed: Malformed, by_text: bool) -> int:
    """The index of the right choice."""
    if not 2 <= len(choices) <= len(LETTERS):
        raise malformed(f"has {len(choices)} choices; from 2 to {len(LETTERS)} are needed")
    if by_text and answer in choices:
        named = [letter for letter, choice in zip(LETTERS, choices, strict=False) if choice == answer]
        if len(named) > 1 or (answer in LETTERS[: len(choices)] and answer != named[0]):
            raise malformed(
                f"answer {answer!r} may be more than one choice; give letter and text, as 'A. {choices[0]}'"
            )
        return choices.index(answer)
    index = read_answer(answer, len(choices))
    if index is None:
        beside = ", nor a choice's text" if by_text else ""
        raise malformed(f"answer {answer[:40]!r} is none of {', '.join(LETTERS[: len(choices)])}{beside}")
    return index


def _refuse_letter(answer: str, malformed: Malformed) -> None:
    """A lone letter without choices is rather a question that has lost them than one in free text."""
    letter = answer.strip().rstrip(".")
    if letter in tuple(LETTERS):
        raise malformed(
            f"has 0 choices and the answer {answer[:40]!r}; give from 2 to {len(LETTERS)} choices, or for free text "
            f'answers=["{letter}"]'
        )


def _accepted(answers: Any, malformed: Malformed) -> tuple[str, ...]:
    if not isinstance(answers, list) or not all(isinstance(each, str) and each.strip() for each in answers):
        raise malformed("answers must be a list of texts, none of them empty")
    if not answers:
        raise malformed("answers is an empty list; give at least one accepted answer")
    return tuple(answers)


def _scorer(name: Any, answers: tuple[str, ...], malformed: Malformed) -> str:
    if not isinstance(name, str) or name not in SCORERS:
        raise malformed(f"scorer {name!r:.40} is unknown; choose one of {', '.join(SCORERS)}")
    if len(answers) < PEOPLE.get(name, 1):
        raise malformed(
            f"scorer {name} compares with the answers of several people, usually ten; here are {len(answers)}, and at "
            f"least {PEOPLE[name]} are needed"
        )
    return name
