"""Conversations in LLaVA's format as the fields of questions."""

import re
from collections.abc import Mapping
from typing import Any

from tokensel.data.prompts import INSTRUCTION, PICTURE, VIDEO, YES_NO_INSTRUCTION
from tokensel.data.question import LETTERS
from tokensel.data.question_answer import Malformed

_CONTEXT = "Context: "
# The first line of a question of two lines: the second is the statement that it refers to.
_FIRST_OF_TWO = re.compile(r"\?$|^Complete the ")


def read_conversation(turns: Any, malformed: Malformed, video: bool = False) -> list[Mapping[str, Any]]:
    """The hint, question, choices and answer of each human turn, answered by the turn of gpt behind it. Turns of other
    speakers are ignored.

    video: whether the conversation is about one.
    """
    if not isinstance(turns, list):
        raise malformed("has no list of conversations")
    spoken = [
        (turn["from"], turn["value"])
        for turn in turns
        if isinstance(turn, dict) and turn.get("from") in ("human", "gpt") and isinstance(turn.get("value"), str)
    ]
    if not spoken:
        raise malformed('needs a turn from "human" and one from "gpt", each with a value')
    if [speaker for speaker, _ in spoken] != ["human", "gpt"] * (len(spoken) // 2):
        told = ", ".join(speaker for speaker, _ in spoken[:6])
        raise malformed(f'needs turns from "human" and "gpt" in alternation, each with a value; has {told}')
    words = [value for _, value in spoken]
    return [
        {**_split(without_instruction(human, video)), "answer": gpt}
        for human, gpt in zip(words[::2], words[1::2], strict=True)
    ]


def without_instruction(words: str, video: bool = False) -> str:
    """The words without the place of one picture or video before or after them, and without an instruction that is
    added anyway."""
    for place in (PICTURE, VIDEO) if video else (PICTURE,):
        if words.count(place) == 1:
            words = words.removeprefix(f"{place}\n").removesuffix(f"\n{place}")
    return words.removesuffix(f"\n{INSTRUCTION}").removesuffix(f"\n{YES_NO_INSTRUCTION}")


def _split(human: str) -> dict[str, Any]:
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
        return {"hint": hint.removeprefix(_CONTEXT), "question": text, "choices": choices}
    return {"hint": "", "question": "\n".join(words), "choices": choices}
