"""ScienceQA: 21208 multiple-choice questions of school science, half of them with a picture.

Supported forms, which give the same questions:

    derek-thomas/ScienceQA          on the hub, with the columns image, question, choices, answer, hint, grade, subject,
                                    topic, ...; lmms-lab/ScienceQA has the same columns, with config=ScienceQA-IMG (only
                                    questions with a picture) or ScienceQA-FULL
    a folder                        with either data set, written by `save_to_disk` or cloned from the hub
    the original folder             problems.json, pid_splits.json and images/SPLIT/PID/image.png

The hub's examples have no pid. Unless there is a column "pid" or "id", their id is their index in the split.

Source: Lu et al., "Learn to Explain: Multimodal Reasoning via Thought Chains for Science Question Answering",
NeurIPS 2022, https://arxiv.org/abs/2209.09513
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tokensel.data.hub import ExamplePicture, Source, content_id, has_picture, load_examples, local_folder, picture_id
from tokensel.data.json_text import parse_json
from tokensel.data.question import Question
from tokensel.errors import TokenselError, first_line

_COLUMNS = ("image", "question", "choices", "answer")
_ORIGINAL = "the original with problems.json, pid_splits.json and images"
# Both names of the validation split: the hub's and the original's.
_VALIDATION = ("validation", "val")


def load_scienceqa(
    path: str = "derek-thomas/ScienceQA",
    split: str = "test",
    images_only: bool = True,
    config: str | None = None,
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split, in its order: test has 4241, 2017 of them with a picture.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: train, validation or test; of the original folder also trainval, minival and minitest
        images_only: omit questions without a picture
        config: required for lmms-lab/ScienceQA: ScienceQA-IMG or ScienceQA-FULL
        revision: a branch, tag or commit on the hub

    A question's image_id is a digest of its encoded picture, because many questions share a picture. Pictures are
    decoded, and missing ones found, when a question's picture is loaded.

    Raises TokenselError for a path, split, config or revision that does not exist, an unreachable hub, and an example
    without question, choices or answer.
    """
    if not isinstance(images_only, bool):
        raise TokenselError(f"data.images_only={images_only}: must be true or false")
    folder = local_folder(path)
    if folder is not None and (folder / "problems.json").is_file():
        questions = _from_original(folder, split)
    else:
        questions = _from_hub(Source(str(path), str(split), config, revision, _ORIGINAL))
    return [question for question in questions if question.image is not None or not images_only]


def _from_hub(source: Source) -> list[Question]:
    examples = load_examples(source, _COLUMNS)
    pictures = examples.select_columns(["image"])
    id_column = next((column for column in ("pid", "id") if column in examples.column_names), None)
    questions = []
    for index, example in enumerate(examples):
        shown = has_picture(example["image"])
        questions.append(
            _question(
                example,
                id=str(index if id_column is None else example[id_column]),
                where=f"data.path={source.path}: example {index}",
                split=source.split,
                image=ExamplePicture(pictures, index) if shown else None,
                image_id=picture_id(example["image"]) if shown else "",
            )
        )
    return questions


def _from_original(folder: Path, split: str) -> list[Question]:
    problems, splits = (_read(folder / name) for name in ("problems.json", "pid_splits.json"))
    name = "val" if split in _VALIDATION else split
    if not isinstance(splits.get(name), list):
        raise TokenselError(f"data.split={split}: {folder} has {', '.join(splits)}")
    questions = []
    for pid in map(str, splits[name]):
        where = f"{folder / 'problems.json'}: {pid}"
        problem = problems.get(pid)
        if not isinstance(problem, dict):
            raise TokenselError(f"{where}: pid_splits.json contains it, but there is no such problem")
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
        content = parse_json(file.read_text(encoding="utf-8"))
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
    # Plain names only: a problem must not refer to files outside the folder.
    if any(part in ("", "..") or Path(part).name != part for part in parts):
        raise TokenselError(f"{where}: split {split} and image {image} are not plain names")
    return folder.joinpath("images", *parts)


def _file_id(picture: Path, folder: Path) -> str:
    try:
        if picture.is_file():  # a pipe would be read for ever
            return content_id(picture.read_bytes())
    except OSError:
        pass
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
    """A question from an example or a problem, whose fields have the same names."""
    text, choices, answer = fields.get("question"), fields.get("choices"), fields.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise TokenselError(f"{where}: has no question")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise TokenselError(f"{where}: choices {choices!r:.40} must be a list of strings")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise TokenselError(f"{where}: answer {answer!r:.40} is not an index of its {len(choices)} choices")
    texts: dict[str, Any] = {name: str(fields.get(name) or "") for name in ("hint", "subject", "topic", "grade")}
    if not texts["hint"].strip():
        texts["hint"] = ""
    return Question(
        id=id,
        text=text,
        choices=tuple(choices),
        answer=answer,
        image=image,
        image_id=image_id,
        split=split,
        **texts,
    )
