"""One entry of a user's question file as a `Question`: in plain fields, or as a conversation in LLaVA's format."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokensel.data.prompts import INSTRUCTION, YES_NO_INSTRUCTION, read_answer
from tokensel.data.question import LETTERS, YES_NO, Question
from tokensel.errors import TokenselError

#: Of an entry in plain fields.
FIELDS = ("id", "image", "question", "hint", "choices", "answer")
_IMAGE = "<image>"
_CONTEXT = "Context: "
# The first line of a question of two lines: the second is the statement that it refers to.
_FIRST_OF_TWO = re.compile(r"\?$|^Complete the ")
#: Makes the error about an entry, from what is wrong with it.
Malformed = Callable[[str], TokenselError]


def read_entry(entry: Any, where: str, folder: Path | None) -> Question:
    """The question of an entry, which has "conversations" or the plain fields; see `tokensel.data.question_file`.

    Parameters:
        where: file and position, for messages
        folder: of the pictures

    Raises TokenselError, which begins with `where` and the id, for an entry that is malformed or asks for more than one
    answer about one picture.
    """

    def malformed(problem: str) -> TokenselError:
        return TokenselError(f"{where}: {problem}")

    if not isinstance(entry, Mapping):
        raise malformed(f"is a {type(entry).__name__}; an object with id, question and answer is needed")
    id = entry.get("id")
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        raise malformed("has no id")
    where = f"{where} (id {id})"
    if "conversations" in entry:
        hint, text, choices, answer = _from_conversation(entry["conversations"], malformed)
    elif "question" in entry:
        hint, text, choices, answer = _from_fields(entry, malformed)
    else:
        raise malformed("has no question; an entry has question and answer, or conversations as LLaVA's files")
    if not text.strip():
        raise malformed("has no question before its choices" if choices else "has an empty question")
    if _IMAGE in text + hint:
        raise malformed(f"has {_IMAGE} inside its words; one picture is allowed, before or after them")
    index = _answer_index(answer, choices, malformed)
    picture = entry.get("image")
    if picture is not None:
        picture = _inside(picture, folder, malformed)
    return Question(
        id=str(id),
        text=text,
        choices=choices or YES_NO,
        answer=index,
        image=None if picture is None or folder is None else folder / picture,
        image_id=picture or "",
        hint=hint,
        form="choices" if choices else "yes_no",
    )


def _from_fields(entry: Mapping[str, Any], malformed: Malformed) -> tuple[str, str, tuple[str, ...], str]:
    """Hint, question, choices and answer of an entry in plain fields."""
    if unknown := [name for name in entry if name not in FIELDS]:
        raise malformed(f"field {unknown[0]!r} is unknown; fields are {', '.join(FIELDS)}")
    words = [entry.get(name) for name in ("hint", "question", "answer")]
    for name, value in zip(("hint", "question", "answer"), words, strict=True):
        if not isinstance(value, str) and (name != "hint" or value is not None):
            raise malformed(f"{name} must be text, not {'missing' if value is None else type(value).__name__}")
    hint, text, answer = (value or "" for value in words)
    choices = entry.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(each, str) and each.strip() for each in choices):
        raise malformed("choices must be a list of texts")
    if answer in choices:
        named = [letter for letter, choice in zip(LETTERS, choices, strict=False) if choice == answer]
        if len(named) > 1 or (answer in LETTERS[: len(choices)] and answer != named[0]):
            raise malformed(f"answer {answer!r} may be more than one choice; give a letter that is no choice's text")
        answer = named[0]
    return hint, _without_image(text), tuple(choices), answer


def _from_conversation(turns: Any, malformed: Malformed) -> tuple[str, str, tuple[str, ...], str]:
    """Hint, question, choices and answer of a conversation of two turns."""
    if not isinstance(turns, list):
        raise malformed("has no list of conversations")
    spoken: dict[str, list[str]] = {"human": [], "gpt": []}
    for turn in turns:
        if isinstance(turn, dict) and turn.get("from") in spoken and isinstance(turn.get("value"), str):
            spoken[turn["from"]].append(turn["value"])
    human, gpt = spoken.values()
    if not human or not gpt:
        raise malformed('needs a turn from "human" and one from "gpt", each with a value')
    if len(human) > 1 or len(gpt) > 1:
        raise malformed(
            f"has {max(len(human), len(gpt))} turns of one speaker; one question and its answer are allowed: "
            "make each turn an entry of its own"
        )
    return *_split(_without_image(human[0])), gpt[0]


def _answer_index(answer: str, choices: tuple[str, ...], malformed: Malformed) -> int:
    """The index of the right choice; without choices, of the word yes or no in `YES_NO`."""
    if not choices:
        word = answer.strip().rstrip(".").capitalize()
        if word not in YES_NO:
            raise malformed(
                f"has 0 choices and the answer {answer[:40]!r}; 2 to {len(LETTERS)} choices are needed, or the answer "
                "yes or no (free text is not scored)"
            )
        return YES_NO.index(word)
    if not 2 <= len(choices) <= len(LETTERS):
        raise malformed(f"has {len(choices)} choices; from 2 to {len(LETTERS)} (lines A., B., ...) are needed")
    index = read_answer(answer, len(choices))
    if index is None:
        raise malformed(f"answer {answer[:40]!r} is none of {', '.join(LETTERS[: len(choices)])}")
    return index


def _inside(picture: Any, folder: Path | None, malformed: Malformed) -> str:
    """The picture's normalised path relative to the folder."""
    if isinstance(picture, list):
        raise malformed(f"image is a list of {len(picture)}; one picture is allowed, as the text of its path")
    if not isinstance(picture, str) or not picture:
        raise malformed("image is not a path")
    if folder is None:
        raise malformed(f"has the picture {picture}, so data.image_folder is needed")
    # Only the name is checked, symbolic links are not resolved: users may link pictures into the folder.
    path = os.path.normpath(picture)
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise malformed(f"picture {picture} is outside {folder}")
    return path


def _without_image(words: str) -> str:
    """The words without the picture's place before or after them, and without an instruction that is added anyway."""
    words = words.removeprefix(f"{_IMAGE}\n").removesuffix(f"\n{_IMAGE}")
    return words.removesuffix(f"\n{INSTRUCTION}").removesuffix(f"\n{YES_NO_INSTRUCTION}")


def _split(human: str) -> tuple[str, str, tuple[str, ...]]:
    """Hint, question and choices of a human turn."""
    lines = human.split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith("A. ")]
    before = starts[-1] if starts else len(lines)
    choices: list[str] = []
    for line in lines[before:]:
        if len(choices) < len(LETTERS) and line.startswith(f"{LETTERS[len(choices)]}. "):
            choices.append(line[3:])
        else:
            choices[-1] += f"\n{line}"

    words = lines[:before]
    first = -2 if len(words) > 2 and _FIRST_OF_TWO.search(words[-2]) else -1
    hint, text = "\n".join(words[:first]), "\n".join(words[first:])
    if hint.startswith(_CONTEXT) and hint != _CONTEXT and text.strip():
        return hint.removeprefix(_CONTEXT), text, tuple(choices)
    return "", "\n".join(words), tuple(choices)
