"""Questions from a user's file, in the format of LLaVA's ScienceQA evaluation.

A .json file with a list of entries, or a .jsonl file with one entry per line:

    {"id": "5", "image": "5/image.png", "conversations": [
        {"from": "human", "value": "<image>\\nContext: ...\\nWhich is red?\\nA. left\\nB. right"},
        {"from": "gpt", "value": "B"}]}

An entry without "image" is a question without a picture.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokensel.data.json_text import JSONTextError, parse_json
from tokensel.data.prompts import INSTRUCTION, read_answer
from tokensel.data.question import LETTERS, Question
from tokensel.errors import TokenselError

_CONTEXT = "Context: "
# The first line of a question of two lines: the second is the statement that it refers to.
_FIRST_OF_TWO = re.compile(r"\?$|^Complete the ")


def load_question_file(path: str | Path, image_folder: str | Path | None = None) -> list[Question]:
    """The questions of a file, in its order.

    Parameters:
        path: a .json or .jsonl file; see the module's docstring
        image_folder: the folder that each "image" is relative to; needed only if an entry has one

    The choices are the last lines, from the last line that begins with "A. ". If the first line begins with the word
    "Context:", the lines before the choices contain hint and question with nothing between them: the question is then
    the last line, and also the one before it if that ends in "?" or begins with "Complete the ". In either case
    `build_prompt` restores the entry's own words.

    Raises TokenselError, which names the file and the line or entry, for a file that is missing or malformed, a missing
    image folder, and a picture outside it. A missing picture is found by `Question.load_image`.
    """
    path = Path(path).expanduser()
    folder = None if image_folder is None else Path(image_folder).expanduser()
    if not path.is_file():
        raise TokenselError(f"data.path={path}: no such file; a .json or .jsonl file of questions is needed")
    if folder is not None and not folder.is_dir():
        raise TokenselError(f"data.image_folder={folder}: no such folder")
    return [_question(entry, where, folder) for where, entry in _entries(path)]


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry, with a description of its position for messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenselError(f"data.path={path}: is not UTF-8 text (byte {error.start})") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}: line {number}", _parse(line, path, number)
        return
    entries = _parse(text, path, 1)
    if not isinstance(entries, list):
        raise TokenselError(f"data.path={path}: is a {type(entries).__name__}; a list of entries is needed")
    for number, entry in enumerate(entries):
        yield f"{path}: entry {number}", entry


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return parse_json(text)
    except JSONTextError as error:
        where = "" if error.line is None else f"line {first_line + error.line - 1}: "
        where = where or (f"line {first_line}: " if path.suffix == ".jsonl" else "")
        raise TokenselError(f"data.path={path}: {where}{error}") from error


def _question(entry: Any, where: str, folder: Path | None) -> Question:
    def malformed(problem: str) -> TokenselError:
        return TokenselError(f"{where}: {problem}")

    if not isinstance(entry, dict):
        raise malformed(f"is a {type(entry).__name__}; an object with id and conversations is needed")
    id = entry.get("id")
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        raise malformed("has no id")
    where = f"{where} (id {id})"
    turns = entry.get("conversations")
    if not isinstance(turns, list):
        raise malformed("has no list of conversations")
    human, reply = _first_turn_of("human", turns), _first_turn_of("gpt", turns)
    if human is None or reply is None:
        raise malformed('needs a turn from "human" and one from "gpt", each with a value')

    hint, text, choices = _split(human)
    if not text.strip():
        raise malformed("has no question before its choices")
    if not 2 <= len(choices) <= len(LETTERS):
        raise malformed(f"has {len(choices)} choices; from 2 to {len(LETTERS)} lines A., B., ... are needed")
    answer = read_answer(reply, len(choices))
    if answer is None:
        raise malformed(f"answer {reply[:40]!r} is none of {', '.join(LETTERS[: len(choices)])}")
    picture = entry.get("image")
    if picture is not None:
        picture = _inside(picture, folder, malformed)
    return Question(
        id=str(id),
        text=text,
        choices=choices,
        answer=answer,
        image=None if picture is None or folder is None else folder / picture,
        image_id=picture or "",
        hint=hint,
    )


def _inside(picture: Any, folder: Path | None, malformed: Callable[[str], TokenselError]) -> str:
    """The picture's normalised path relative to the folder."""
    if not isinstance(picture, str) or not picture:
        raise malformed("image is not a path")
    if folder is None:
        raise malformed(f"has the picture {picture}, so data.image_folder is needed")
    # Only the name is checked, symbolic links are not resolved: users may link pictures into the folder.
    path = os.path.normpath(picture)
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise malformed(f"picture {picture} is outside {folder}")
    return path


def _first_turn_of(speaker: str, turns: list[Any]) -> str | None:
    """The text of a speaker's first turn, or None."""
    for turn in turns:
        if isinstance(turn, dict) and turn.get("from") == speaker and isinstance(turn.get("value"), str):
            return turn["value"]
    return None


def _split(human: str) -> tuple[str, str, tuple[str, ...]]:
    """Hint, question and choices of a human turn."""
    human = human.removeprefix("<image>\n").removesuffix("\n<image>").removesuffix(f"\n{INSTRUCTION}")
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
