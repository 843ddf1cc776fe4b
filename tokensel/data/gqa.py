"""GQA: questions about objects, attributes and relations in photographs, answered with a word or phrase; 12578 of them
in the balanced test-dev split.

Supported forms, which give the same questions:

    lmms-lab/GQA    on the hub, with the questions (id, imageId, question, answer) in one configuration,
                    testdev_balanced_instructions, and the pictures (id, image) in another, testdev_balanced_images
    a folder        a copy of the hub's; or with a folder for each of these two, written by `save_to_disk`; or a single
                    data set, written by `save_to_disk`, that also has a column image

Source: Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering",
CVPR 2019, https://arxiv.org/abs/1902.09506
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tokensel.data.examples import each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples, local_folder
from tokensel.data.question import NO_CHOICE, Question

_COLUMNS = ("id", "imageId", "question", "answer")


@dataclass(frozen=True)
class _NoPicture:
    """Stands for a picture that the data set lacks: its questions are bad samples, the others remain usable."""

    name: str

    def __call__(self) -> Image.Image:
        raise ValueError(f"the data set has no picture {self.name}")


def load_gqa(
    path: str = "lmms-lab/GQA",
    split: str = "testdev",
    config: str = "testdev_balanced",
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split, in its order. A question's family is its structure: query, verify, choose and so on.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: of both configurations
        config: what the names of the two configurations begin with: testdev_balanced, testdev_all, train_balanced, ...
        revision: of the hub's data set; null: its newest

    Raises TokenselError for data that cannot be found or read, and an example without question or answer.
    """
    source, pictures_source = _sources(str(path), str(split), str(config), revision)
    examples = load_examples(source, _COLUMNS)
    pictures: dict[str, Any] = {}
    if pictures_source is not None:
        found = load_examples(pictures_source, ("id", "image"))
        shown = found.select_columns(["image"])
        pictures = {str(name): ExamplePicture(shown, index) for index, name in enumerate(found["id"])}
    elif "image" not in examples.column_names:
        raise source.error("has no column image; save the pictures with the questions, or both configurations")
    else:
        shown = examples.select_columns(["image"])
    questions = []
    for index, example in each_example(examples, source):
        picture = example.text("imageId")
        image = pictures.get(picture, _NoPicture(picture)) if pictures_source else ExamplePicture(shown, index)
        questions.append(
            Question(
                id=example.text("id"),
                text=example.text("question"),
                choices=(),
                answer=NO_CHOICE,
                image=image,
                image_id=picture,
                split=source.split,
                family=_structure(example.fields.get("types")),
                form="text",
                answers=(example.text("answer"),),
                scorer="gqa",
            )
        )
    return questions


def _structure(types: Any) -> str:
    """The structural type of a question, where the data set states it."""
    return str(types.get("structural") or "") if isinstance(types, Mapping) else ""


def _sources(path: str, split: str, config: str, revision: str | None) -> tuple[Source, Source | None]:
    """Where the questions are, and where the pictures; None: with the questions."""
    questions = Source(path, split, f"{config}_instructions", revision)
    pictures = replace(questions, config=f"{config}_images")
    folder = local_folder(path)
    if folder is None:
        return questions, pictures
    if _is_saved(folder):
        return replace(questions, config=None), None
    kept = [folder / str(source.config) for source in (questions, pictures)]
    if all(map(_is_saved, kept)):
        saved = [replace(questions, path=str(each), config=None) for each in kept]
        return saved[0], saved[1]
    return questions, pictures


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it; false also for a name that no folder can have."""
    return any(os.path.isfile(folder / name) for name in ("dataset_dict.json", "state.json"))
