"""ScienceQA: 21208 multiple-choice questions of school science, half of them with a picture.

Lu et al., "Learn to Explain", NeurIPS 2022, https://arxiv.org/abs/2209.09513. Its forms give the same questions:

    derek-thomas/ScienceQA          on the hub, with the columns image, question, choices, answer, hint, grade, subject,
                                    topic, ...; lmms-lab/ScienceQA has them too, with config=ScienceQA-IMG (those with a
                                    picture) or ScienceQA-FULL
    a folder                        of either, written by datasets' save_to_disk, or a copy of the repository
    the original folder             problems.json, pid_splits.json and images/SPLIT/PID/image.png

The hub's rows have no pid. Their ids are their numbers in the split, unless there is a column "pid" or "id".
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tokensel.data.hub import RowPicture, Source, content_id, has_picture, load_rows, local_folder, picture_id
from tokensel.data.question import Question
from tokensel.errors import TokenselError, first_line

_COLUMNS = ("image", "question", "choices", "answer")
_ORIGINAL = "the original with problems.json, pid_splits.json and images"
# The original's word for the split that the hub calls validation.
_VALIDATION = ("validation", "val")


def load_scienceqa(
    path: str = "derek-thomas/ScienceQA",
    split: str = "test",
    images_only: bool = True,
    config: str | None = None,
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split, in its order: 4241 in test, 2017 of them with a picture.

    path          a data set on the hub, or a folder; see the head of this module
    split         train, validation or test; of the original folder also trainval, minival and minitest
    images_only   leaves out questions without a picture
    config        lmms-lab/ScienceQA needs one: ScienceQA-IMG or ScienceQA-FULL
    revision      a branch, tag or commit of the hub's

    image_id is a digest of the encoded picture: many questions share one. A picture is decoded when it is asked for,
    and a lost one is found then.

    Raises TokenselError for a path, split, config or revision that does not exist, for a hub that is out of reach, and
    for a row without question, choices or answer.
    """
    if not isinstance(images_only, bool):
        raise TokenselError(f"data.images_only={images_only}: must be true or false")
    folder = local_folder(path)
    if folder is not None and (folder / "problems.json").is_file():
        questions = _original(folder, split)
    else:
        questions = _rows(Source(str(path), str(split), config, revision, _ORIGINAL))
    return [question for question in questions if question.image is not None or not images_only]


def _rows(source: Source) -> list[Question]:
    rows = load_rows(source, _COLUMNS)
    pictures = rows.select_columns(["image"])
    named = next((column for column in ("pid", "id") if column in rows.column_names), None)
    questions = []
    for number, row in enumerate(rows):
        seen = has_picture(row["image"])
        questions.append(
            _question(
                row,
                id=str(number if named is None else row[named]),
                where=f"data.path={source.path}: row {number}",
                split=source.split,
                image=RowPicture(pictures, number) if seen else None,
                image_id=picture_id(row["image"]) if seen else "",
            )
        )
    return questions


def _original(folder: Path, split: str) -> list[Question]:
    problems, splits = (_read(folder / name) for name in ("problems.json", "pid_splits.json"))
    name = "val" if split in _VALIDATION else split
    if not isinstance(splits.get(name), list):
        raise TokenselError(f"data.split={split}: {folder} has {', '.join(splits)}")
    questions = []
    for pid in map(str, splits[name]):
        where = f"{folder / 'problems.json'}: {pid}"
        problem = problems.get(pid)
        if not isinstance(problem, dict):
            raise TokenselError(f"{where}: pid_splits.json names it, but there is no such problem")
        picture = _picture(folder, pid, problem, where)
        questions.append(
            _question(
                problem,
                id=pid,
                where=where,
                split="validation" if split in _VALIDATION else split,
                image=picture,
                image_id="" if picture is None else _file_id(picture, folder),
            )
        )
    return questions


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenselError(f"data.path={file.parent}: {file.name} cannot be read ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise TokenselError(f"data.path={file.parent}: {file.name} is a {type(content).__name__}; an object is needed")
    return content


def _picture(folder: Path, pid: str, problem: Mapping[str, Any], where: str) -> Path | None:
    image, split = problem.get("image"), problem.get("split")
    if not image:
        return None
    parts = (str(split), pid, str(image))
    # Plain names: a problem must not reach outside the folder.
    if any(part in ("", "..") or Path(part).name != part for part in parts):
        raise TokenselError(f"{where}: split {split} and image {image} are not plain names")
    return folder.joinpath("images", *parts)


def _file_id(picture: Path, folder: Path) -> str:
    try:
        return content_id(picture.read_bytes())
    except OSError:
        return picture.relative_to(folder).as_posix()


def _question(
    fields: Mapping[str, Any],
    *,
    id: str,
    where: str,
    split: str,
    image: Path | Callable[[], Image.Image] | None,
    image_id: str,
) -> Question:
    """A question from a row or a problem: the names of what they hold are the same."""
    text, choices, answer = fields.get("question"), fields.get("choices"), fields.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise TokenselError(f"{where}: has no question")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise TokenselError(f"{where}: choices {choices!r:.40} are no list of words")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise TokenselError(f"{where}: answer {answer!r:.40} is no index of its {len(choices)} choices")
    told = {name: str(fields.get(name) or "") for name in ("hint", "subject", "topic", "grade")}
    if not told["hint"].strip():
        told["hint"] = ""
    return Question(
        id=id,
        text=text,
        choices=tuple(choices),
        answer=answer,
        image=image,
        image_id=image_id,
        split=split,
        **told,
    )
