"""SEED-Bench: multiple-choice questions of twelve kinds: 14232 about a picture and 3757 about a video, shown as a few
frames.

Supported forms: lmms-lab/SEED-Bench on the hub, with the columns question_id, question, choice_a to choice_d, answer,
data_type, image (a list) and question_type_id; or a folder with it, written by `save_to_disk` or cloned from the hub.

Source: Li et al., "SEED-Bench: Benchmarking Multimodal Large Language Models", CVPR 2024,
https://arxiv.org/abs/2307.16125
"""

from collections.abc import Sequence

from pyarrow.compute import list_value_length
from pyarrow.types import is_list

from tokensel.data.examples import digests, each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.picture import Picture
from tokensel.data.question import Question
from tokensel.errors import check_choice

PARTS = ("image", "video", "all")
# By question_type_id, from 1.
_KINDS = (
    "Scene Understanding",
    "Instance Identity",
    "Instance Attributes",
    "Instance Location",
    "Instances Counting",
    "Spatial Relation",
    "Instance Interaction",
    "Visual Reasoning",
    "Text Understanding",
    "Action Recognition",
    "Action Prediction",
    "Procedure Understanding",
)
_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
_COLUMNS = ("question_id", "question", *_CHOICES, "answer", "data_type", "image")


def load_seedbench(
    path: str = "lmms-lab/SEED-Bench",
    split: str = "test",
    part: str = "image",
    config: str | None = None,
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split, in its order. A question's category is image or video; its family is its kind.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: the hub's data set has test
        part: image, video or all. A video is several pictures, for models that can take these
        config, revision: of the hub's data set; null: its default, its newest

    Raises TokenselError for data that cannot be found or read, and an example without question, choices or answer.
    """
    check_choice("data.part", part, PARTS)
    source = Source(str(path), str(split), config, revision)
    examples = load_examples(source, _COLUMNS)
    pictures = examples.select_columns(["image"])
    lists = pictures.with_format("arrow")[:]["image"]  # mapped into memory: no picture is read
    if not is_list(lists.type):
        raise source.error("column image must hold a list of pictures for each question")
    counts = list_value_length(lists).to_pylist()
    image_ids = None if "data_id" in examples.column_names else digests(examples)
    questions = []
    for index, example in each_example(examples, source):
        kind, number = example.get("data_type"), example.get("question_type_id")
        if part not in ("all", kind):
            continue
        choices = tuple(example.text(name) for name in _CHOICES)
        # One that has lost its pictures is a bad sample when it is asked.
        shown: Sequence[Picture] = [ExamplePicture(pictures, index, place=k) for k in range(counts[index] or 1)]
        questions.append(
            Question(
                id=example.text("question_id"),
                text=example.text("question"),
                choices=choices,
                answer=example.choice("answer", choices),
                image=shown,
                image_id=image_ids[index] if image_ids else f"{kind}-{example.get('data_id')}",
                split=source.split,
                family=_KINDS[int(number) - 1] if number in map(str, range(1, 13)) else number,
                category=kind,
            )
        )
    return questions
