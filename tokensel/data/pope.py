"""POPE: 9000 questions "Is there a ... in the image?" about 500 pictures of COCO; the right answer is yes for half of
them.

The absent objects were drawn at random, from the popular ones, or from those that often occur together with the
present ones (adversarial); there are 3000 questions of each category. Supported forms, which give the same questions:

    lmms-lab/POPE   on the hub, with the columns question_id, question, answer, image_source, image, category;
                    split=test has all three categories, config=Full has the splits random, popular and adversarial
    a folder        with that data set, written by `save_to_disk` or cloned from the hub
    the original    a folder with coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json, or one
                    of them, with {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a
                    snowboard in the image?", "label": "yes"} on each line; and image_folder with COCO's pictures

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023,
https://arxiv.org/abs/2305.10355
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensel.data.hub import ExamplePicture, Source, has_picture, load_examples, local_folder, picture_id
from tokensel.data.json_text import JSONTextError, parse_json
from tokensel.data.question import YES_NO, Question
from tokensel.data.yes_no import POPE_CATEGORIES, read_label
from tokensel.errors import TokenselError, check_choice, first_line

_COLUMNS = ("question_id", "image", "question", "answer", "category")
_ORIGINAL = "the original with coco_pope_random.json, ... (and data.image_folder)"


def load_pope(
    path: str = "lmms-lab/POPE",
    image_folder: str | None = None,
    split: str = "test",
    config: str | None = None,
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split, in its order; those of the original by category: random, popular, adversarial.

    Parameters:
        path: a data set on the hub, a folder, or an original file; see the module's docstring
        image_folder: the folder of the original's pictures
        split: of the hub's data set: test, or with config=Full a category; of the original: test or a category
        config, revision: of the hub's data set; null: its default, its newest

    A question's id is its category and question_id; its image_id is the name of COCO's picture.

    Raises TokenselError for data that cannot be found or read.
    """
    files = _original_files(Path(os.path.expanduser(str(path))))
    if not files:
        return _from_hub(Source(str(path), str(split), config, revision, _ORIGINAL))
    check_choice("data.split", split, ["test", *files])
    if image_folder is None:
        raise TokenselError("data.image_folder: the original files need it; set it to the folder with COCO's pictures")
    folder = local_folder(image_folder)
    if folder is None:
        raise TokenselError(f"data.image_folder={image_folder}: no such folder")
    wanted = files if split == "test" else {split: files[split]}
    return [
        _from_original(entry, category, folder, where, split)
        for category, file in wanted.items()
        for where, entry in _entries(file)
    ]


def _from_hub(source: Source) -> list[Question]:
    examples = load_examples(source, _COLUMNS)
    pictures = examples.select_columns(["image"])
    if "image_source" in examples.column_names:  # avoids reading 1.5 GB of pictures
        image_ids = [Path(str(name or "")).stem for name in examples["image_source"]]
    else:
        image_ids = [picture_id(image) if has_picture(image) else "" for image in pictures["image"]]
    questions = []
    for index, example in enumerate(examples.remove_columns(["image"])):
        where = f"data.path={source.path}: example {index}"
        image, category = ExamplePicture(pictures, index), str(example["category"] or source.split)
        fields = (example["question_id"], example["question"], example["answer"], image, image_ids[index])
        questions.append(_question(category, *fields, where=where, split=source.split))
    return questions


def _original_files(path: Path) -> dict[str, Path]:
    """The file of each category, in the folder `path` or at `path` itself."""
    files: dict[str, Path] = {}
    for category in POPE_CATEGORIES:
        ending = f"pope_{category}.json"
        found = [path] if os.path.isfile(path) else sorted(path.glob(f"*{ending}*")) if os.path.isdir(path) else []
        found = [file for file in found if file.name.removesuffix("l").endswith(ending)]
        if len(found) > 1:
            raise TokenselError(f"data.path={path}: has {', '.join(file.name for file in found)}; name one file")
        if found:
            files[category] = found[0]
    return files


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """The object of each line, with a description of its position for messages."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise TokenselError(f"data.path={file}: cannot be read ({first_line(error)})") from error
    for number, line in enumerate(lines, start=1):
        where = f"{file}: line {number}"
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except JSONTextError as error:
            raise TokenselError(f"{where}: {error}") from error
        missing = {"question_id", "image", "text", "label"} - set(entry if isinstance(entry, dict) else ())
        if missing:
            raise TokenselError(f"{where}: has no {', '.join(sorted(missing))}")
        yield where, entry


def _from_original(entry: dict[str, Any], category: str, folder: Path, where: str, split: str) -> Question:
    name = str(entry["image"])
    if not name or name == ".." or Path(name).name != name:
        raise TokenselError(f"{where}: picture {name} is not a plain file name")
    fields = (entry["question_id"], entry["text"], entry["label"], folder / name, Path(name).stem)
    return _question(category, *fields, where=where, split=split)


def _question(
    category: str,
    number: Any,
    text: Any,
    label: Any,
    image: Path | ExamplePicture,
    image_id: str,
    *,
    where: str,
    split: str,
) -> Question:
    if not isinstance(text, str) or not text.strip():
        raise TokenselError(f"{where}: has no question")
    return Question(
        id=f"{category}-{number}",
        text=text.strip(),
        choices=YES_NO,
        answer=read_label(label, where),
        image=image,
        image_id=image_id,
        split=split,
        form="yes_no",
        category=category,
    )
