"""One entry of a user's question file as a `Question`: in plain fields, or as a conversation in LLaVA's format."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokensel.data.conversation import read_conversation, without_instruction
from tokensel.data.prompts import PICTURE, VIDEO
from tokensel.data.question import Question
from tokensel.data.question_answer import Malformed, read_form
from tokensel.data.video import FRAMES, Video
from tokensel.errors import TokenselError

#: What one turn may have, in plain fields.
TURN_FIELDS = ("question", "hint", "choices", "answer", "answers", "scorer", "instruction", "max_new_tokens")
#: Of an entry in plain fields.
FIELDS = ("id", "image", "images", "video", *TURN_FIELDS, "turns")


def read_entry(entry: Any, where: str, folder: Path | None, frames: int = FRAMES) -> Question:
    """The question of an entry, which has "conversations" or the plain fields; see `tokensel.data.question_file`.

    Parameters:
        where: file and position, for messages
        folder: of the pictures and videos
        frames: of a video, how many are shown

    Raises TokenselError, which begins with `where` and the id, for an entry that is malformed.
    """

    def malformed(problem: str) -> TokenselError:
        return TokenselError(f"{where}: {problem}")

    if not isinstance(entry, Mapping):
        raise malformed(f"is a {type(entry).__name__}; an object with id, question and answer is needed")
    id = entry.get("id")
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        raise malformed("has no id")
    where = f"{where} (id {id})"
    plain = "conversations" not in entry
    paths, film = _paths(entry, folder, malformed), _film(entry, folder, malformed)
    first, *later = (
        _plain_turns(entry, malformed)
        if plain
        else read_conversation(entry["conversations"], malformed, film is not None)
    )
    asked = _asked(first, len(paths), malformed, plain, film is not None)
    turns = [
        Question(id=f"{id}#{number}", image=None, **_asked(turn, 0, _of_turn(number, malformed), plain))
        for number, turn in enumerate(later, start=2)
    ]
    image = None if folder is None else [folder / path for path in paths]
    if film is not None and folder is not None:
        asked |= {"video": Video(folder / film), "frames": frames}
    image_id = ",".join(paths) if film is None else film
    return Question(id=str(id), image=image, image_id=image_id, turns=tuple(turns), **asked)


def _of_turn(number: int, malformed: Malformed) -> Malformed:
    return lambda problem: malformed(f"turn {number}: {problem}")


def _plain_turns(entry: Mapping[str, Any], malformed: Malformed) -> list[Mapping[str, Any]]:
    """The fields of each turn, the entry's own first."""
    if "question" not in entry:
        raise malformed("has no question; an entry has question and answer, or conversations as LLaVA's files")
    if unknown := [name for name in entry if name not in FIELDS]:
        raise malformed(f"field {unknown[0]!r} is unknown; fields are {', '.join(FIELDS)}")
    turns = entry.get("turns") or []
    if not isinstance(turns, list):
        raise malformed(f"turns is a {type(turns).__name__}; a list of objects with question and answer is needed")
    for number, turn in enumerate(turns, start=2):
        if not isinstance(turn, Mapping):
            raise malformed(f"turn {number}: is a {type(turn).__name__}; an object with question and answer is needed")
        if unknown := [name for name in turn if name not in TURN_FIELDS]:
            allowed = f"fields of a later turn are {', '.join(TURN_FIELDS)}"
            raise malformed(f"turn {number}: field {unknown[0]!r} is unknown; {allowed}")
    return [entry, *turns]


def _asked(
    fields: Mapping[str, Any], pictures: int, malformed: Malformed, plain: bool, video: bool = False
) -> dict[str, Any]:
    """What one turn asks, as `Question` takes it.

    pictures: how many it shows. plain: whether it has plain fields, not a conversation's words. video: whether it shows
    one.
    """
    for name in ("question", "hint", "instruction"):
        value = fields.get(name)
        if not isinstance(value, str) and (name == "question" or value is not None):
            raise malformed(f"{name} must be text, not {'missing' if value is None else type(value).__name__}")
    longest = fields.get("max_new_tokens")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or longest < 1):
        raise malformed(f"max_new_tokens {longest!r:.40} must be a whole number of at least 1")
    hint, text = fields.get("hint") or "", _before_pictures(without_instruction(fields["question"], video), pictures)
    if not text.strip():
        raise malformed("has no question before its choices" if fields.get("choices") else "has an empty question")
    form = read_form(fields, malformed, by_text=plain)
    words = "\n".join((hint, text, *form["choices"]))
    _check_places(words.count(PICTURE), pictures, malformed)
    if video and VIDEO in words:
        raise malformed(f"has {VIDEO} inside its words; one is allowed, before or after them")
    limits = {"instruction": fields.get("instruction"), "max_new_tokens": longest}
    return {"text": text, "hint": hint, **form, **limits}


def _before_pictures(text: str, pictures: int) -> str:
    """The words without the places of several pictures that all stand before them: that is where they are put."""
    bare = text
    for _ in range(pictures):
        bare = bare.removeprefix(PICTURE).removeprefix("\n")
    return bare if text.count(PICTURE) == pictures and PICTURE not in bare else text


def _check_places(places: int, pictures: int, malformed: Malformed) -> None:
    """Refuses words that name places of pictures, unless it is one for each of several."""
    if not places or places == pictures > 1:
        return
    if pictures > 1:
        raise malformed(f"has {places} {PICTURE} in its words and {pictures} pictures; write one for each, or none")
    raise malformed(f"has {PICTURE} inside its words; one picture is allowed, before or after them")


def _paths(entry: Mapping[str, Any], folder: Path | None, malformed: Malformed) -> list[str]:
    """The normalised path of each picture, relative to the folder."""
    one, several = entry.get("image"), entry.get("images")
    if one is not None and several is not None:
        raise malformed("has both image and images; give one of them")
    if several is not None and not isinstance(several, list):
        raise malformed(f"images is a {type(several).__name__}; a list of paths is needed")
    given = several if several is not None else one if isinstance(one, list) else [] if one is None else [one]
    return [_inside(picture, folder, malformed) for picture in given]


def _film(entry: Mapping[str, Any], folder: Path | None, malformed: Malformed) -> str | None:
    """The normalised path of the video, relative to the folder; None if there is none."""
    film = entry.get("video")
    if film is None:
        return None
    if pictures := [name for name in ("image", "images") if entry.get(name) is not None]:
        raise malformed(f"has both {pictures[0]} and video; give one of them")
    return _inside(film, folder, malformed, "video")


def _inside(picture: Any, folder: Path | None, malformed: Malformed, kind: str = "picture") -> str:
    if not isinstance(picture, str) or not picture:
        raise malformed(f"{'image' if kind == 'picture' else kind} is not a path")
    if folder is None:
        raise malformed(f"has the {kind} {picture}, so data.image_folder is needed")
    # Only the name is checked, symbolic links are not resolved: users may link pictures into the folder.
    path = os.path.normpath(picture)
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise malformed(f"{kind} {picture} is outside {folder}")
    return path
