"""Questions from a user's file: a .json file with a list of entries, a .jsonl file with one entry per line, or a .csv
file with one entry per row and the names of the columns in its first line.

An entry in plain fields:

    {"id": "5", "image": "5/image.png", "question": "Which is red?", "choices": ["left", "right"], "answer": "B"}
    {"id": "6", "image": "6/image.png", "question": "Is there a cat?", "answer": "yes"}
    {"id": "7", "image": "7/image.png", "question": "How many cats?", "answers": ["2", "two"]}
    {"id": "8", "images": ["8/a.png", "8/b.png"], "question": "Which has more cats?", "answer": "the second"}
    {"id": "9", "question": "Is it red?", "answer": "no", "turns": [{"question": "What is it?", "answer": "blue"}]}
    {"id": "10", "video": "10.mp4", "question": "Does the cat jump?", "answer": "yes"}

With "choices", "answer" is the letter of one or its text. Without, the answer yes or no makes a yes/no question; other
answers, and a list of "answers", make one in free text, where "scorer", a name in `tokensel.data.scorers.SCORERS`, says
how what is written is compared with them (exact). "hint" is put before the question as its context, "instruction"
behind it in place of the protocol's; "max_new_tokens" bounds a written answer. Pictures stand before the words, or at
the places of "<image>" in them, one for each of several. A "video" is a file or a folder of frames. The later "turns"
of a conversation have the same fields, but no pictures or video.

A .csv file has columns of the same names, without turns, and for the choices A, B, C and so on; empty cells are
missing. Several answers or images in a cell are separated by "|".

An entry in LLaVA's format, in .json and .jsonl files; each human turn is a question of its own, answered by the next of
gpt:

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
from tokensel.data.video import FRAMES
from tokensel.data.video_file import find_reader
from tokensel.errors import TokenselError

_COLUMNS = tuple(name for name in FIELDS if name not in ("choices", "turns"))
# Columns with several values in a cell, and what separates them.
_LISTS, _BETWEEN = ("answers", "images"), "|"
# Mistakes of a file that are listed beside the first.
_LISTED = 5


def load_question_file(
    path: str | Path, image_folder: str | Path | None = None, frames: int = FRAMES
) -> list[Question]:
    """The questions of a file, in its order.

    Parameters:
        path: a .json, .jsonl or .csv file; see the module's docstring
        image_folder: the folder that each "image" and "video" is relative to; needed only if an entry has one
        frames: how many frames of a video are shown, see `tokensel.data.video.uniform_indices`

    In a conversation, the choices are the last lines, from the last line that begins with "A. ". If the first line
    begins with the word "Context:", the lines before the choices contain hint and question with nothing between them:
    the question is then the last line, and also the one before it if that ends in "?" or begins with "Complete the ".
    In either case `build_prompt` restores the entry's own words.

    Raises TokenselError, which names the file and the line or entry, for a file that is missing or malformed, a missing
    image folder, a picture outside it, and an id that occurs twice; with several malformed entries it tells what is
    wrong with the first, and where the others are; also for frames below 1, and for a video file where no decoder is
    installed. A missing picture or video is found by `Question.load_image` and `Question.load_frames`.
    """
    path = Path(os.path.expanduser(path))
    folder = None if image_folder is None else Path(os.path.expanduser(image_folder))
    if not os.path.isfile(path):
        raise TokenselError(f"data.path={path}: no such file; a .json, .jsonl or .csv file of questions is needed")
    if folder is not None and not os.path.isdir(folder):
        raise TokenselError(f"data.image_folder={folder}: no such folder")
    if frames < 1:
        raise TokenselError(f"data.frames={frames}: must be at least 1")
    questions: dict[str, Question] = {}
    first: dict[str, str] = {}
    wrong: list[tuple[str, TokenselError]] = []
    for where, entry in _entries(path):
        try:
            question = read_entry(entry, f"{path}: {where}", folder, frames)
            if question.id in questions:
                raise TokenselError(
                    f"{path}: {where}: id {question.id} occurs more than once, first in {first[question.id]}"
                )
            _check_decoder(question, f"{path}: {where} (id {question.id})")
            questions[question.id], first[question.id] = question, where
        except TokenselError as error:
            wrong.append((where, error))
    if wrong:
        raise _of_all(wrong)
    return list(questions.values())


def _check_decoder(question: Question, where: str) -> None:
    """Refuses a video file where none can be read; a missing one is a bad sample, as a missing picture is."""
    if question.video is not None and question.video.is_file and os.path.exists(str(question.video.source)):
        try:
            find_reader()
        except TokenselError as error:
            raise TokenselError(f"{where}: {error}") from error


def _of_all(wrong: list[tuple[str, TokenselError]]) -> TokenselError:
    """The first error, and where the others are."""
    (_, error), *others = wrong
    if not others:
        return error
    places = ", ".join(where for where, _ in others[:_LISTED]) + (", ..." if len(others) > _LISTED else "")
    return TokenselError(f"{error}; and {len(others)} more with mistakes: {places}")


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry, with its position."""
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
                yield f"line {number}", _parse(line, path, number)
        return
    entries = _parse(text, path, 1)
    if not isinstance(entries, list):
        raise TokenselError(f"data.path={path}: is a {type(entries).__name__}; a list of entries is needed")
    for number, entry in enumerate(entries):
        yield f"entry {number}", entry


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
            where, line = f"line {line}", rows.line_num + 1
            if None in row or None in row.values():
                raise TokenselError(f"{path}: {where}: must have {len(columns)} cells, as many as line 1")
            entry: dict[str, Any] = {name: cell for name, cell in row.items() if cell and name not in tuple(LETTERS)}
            filled = [letter for letter in LETTERS if row.get(letter)]
            if filled != list(LETTERS[: len(filled)]):
                told = f"has choices {', '.join(filled)}; they must be A, B, ... without a gap"
                raise TokenselError(f"{path}: {where}: {told}")
            entry |= {name: entry[name].split(_BETWEEN) for name in _LISTS if name in entry}
            if (longest := entry.get("max_new_tokens", "")).isdecimal() and len(longest) < 10:
                entry["max_new_tokens"] = int(longest)
            yield where, {"question": ""} | entry | {"choices": [row[letter] for letter in filled]}
    except csv.Error as error:
        raise TokenselError(f"data.path={path}: line {line}: not valid CSV ({error})") from error


def _problem_of(columns: list[str]) -> str:
    """What is wrong with the names of a .csv file's columns; "" if they can be used."""
    allowed = f"columns are {', '.join(_COLUMNS)}, and A, B, ... for choices"
    answer = "answer" if "answers" not in columns else "answers"
    if missing := [name for name in ("id", "question", answer) if name not in columns]:
        return f"has no column {missing[0]}; {allowed}"
    if "turns" in columns:
        return "column turns is unknown; several turns need a .json or .jsonl file"
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
