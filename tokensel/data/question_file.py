"""Questions from a user's file: a .json file with a list of entries, a .jsonl file with one entry per line, or a .csv
file with one entry per row and the names of the columns in its first line.

An entry in plain fields:

    {"id": "5", "image": "5/image.png", "question": "Which is red?", "choices": ["left", "right"], "answer": "B"}
    {"id": "6", "image": "6/image.png", "question": "Is there a cat?", "answer": "yes"}

"answer" is the letter of a choice or its text; without choices, it is yes or no. "hint", which is put before the
question as its context, and "image" may be missing. A .csv file has the columns id, image, question, hint and answer,
and for the choices A, B, C and so on; empty cells are missing.

An entry in the format of LLaVA's ScienceQA evaluation, in .json and .jsonl files:

    {"id": "5", "image": "5/image.png", "conversations": [
        {"from": "human", "value": "<image>\\nContext: ...\\nWhich is red?\\nA. left\\nB. right"},
        {"from": "gpt", "value": "B"}]}
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensel.data.json_text import JSONTextError, parse_json
from tokensel.data.question import LETTERS, Question
from tokensel.data.question_entry import FIELDS, read_entry
from tokensel.errors import TokenselError

_COLUMNS = tuple(name for name in FIELDS if name != "choices")


def load_question_file(path: str | Path, image_folder: str | Path | None = None) -> list[Question]:
    """The questions of a file, in its order.

    Parameters:
        path: a .json, .jsonl or .csv file; see the module's docstring
        image_folder: the folder that each "image" is relative to; needed only if an entry has one

    In a conversation, the choices are the last lines, from the last line that begins with "A. ". If the first line
    begins with the word "Context:", the lines before the choices contain hint and question with nothing between them:
    the question is then the last line, and also the one before it if that ends in "?" or begins with "Complete the ".
    In either case `build_prompt` restores the entry's own words.

    Raises TokenselError, which names the file and the line or entry, for a file that is missing or malformed, a missing
    image folder, a picture outside it, and an entry with several pictures, several turns or an answer in free text. A
    missing picture is found by `Question.load_image`.
    """
    path = Path(os.path.expanduser(path))
    folder = None if image_folder is None else Path(os.path.expanduser(image_folder))
    if not os.path.isfile(path):
        raise TokenselError(f"data.path={path}: no such file; a .json, .jsonl or .csv file of questions is needed")
    if folder is not None and not os.path.isdir(folder):
        raise TokenselError(f"data.image_folder={folder}: no such folder")
    return [read_entry(entry, where, folder) for where, entry in _entries(path)]


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry, with a description of its position for messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenselError(f"data.path={path}: is not UTF-8 text (byte {error.start})") from error
    if path.suffix == ".csv":
        yield from _rows(text, path)
        return
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


def _rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a .csv file: its cells by column, and the choices in columns A, B, ... as a list."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        columns = list(rows.fieldnames or ())
        if unusable := _problem_of(columns):
            raise TokenselError(f"data.path={path}: line 1: {unusable}")
        line = rows.line_num + 1
        for row in rows:
            where, line = f"{path}: line {line}", rows.line_num + 1
            if None in row or None in row.values():
                raise TokenselError(f"{where}: must have {len(columns)} cells, as many as line 1")
            entry = {name: cell for name, cell in row.items() if cell and name not in tuple(LETTERS)}
            filled = [letter for letter in LETTERS if row.get(letter)]
            if filled != list(LETTERS[: len(filled)]):
                raise TokenselError(f"{where}: has choices {', '.join(filled)}; they must be A, B, ... without a gap")
            yield where, {"question": "", "answer": ""} | entry | {"choices": [row[letter] for letter in filled]}
    except csv.Error as error:
        raise TokenselError(f"data.path={path}: line {line}: not valid CSV ({error})") from error


def _problem_of(columns: list[str]) -> str:
    """What is wrong with the names of a .csv file's columns; "" if they can be used."""
    allowed = f"columns are {', '.join(_COLUMNS)}, and A, B, ... for choices"
    if missing := [name for name in ("id", "question", "answer") if name not in columns]:
        return f"has no column {missing[0]}; {allowed}"
    if unknown := [name for name in columns if name not in (*_COLUMNS, *LETTERS)]:
        return f"column {unknown[0]!r} is unknown; {allowed}"
    if repeated := [name for name in columns if columns.count(name) > 1]:
        return f"column {repeated[0]} occurs twice"
    return ""


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return parse_json(text)
    except JSONTextError as error:
        where = "" if error.line is None else f"line {first_line + error.line - 1}: "
        where = where or (f"line {first_line}: " if path.suffix == ".jsonl" else "")
        raise TokenselError(f"data.path={path}: {where}{error}") from error
