"""AI2D: 3088 multiple-choice questions about diagrams of school science, in its test split.

Supported forms: lmms-lab/ai2d on the hub, with the columns question, options, answer and image; or a folder with it,
written by `save_to_disk` or cloned from the hub. The examples have no id: it is their index in the split.

Source: Kembhavi et al., "A Diagram Is Worth a Dozen Images", ECCV 2016, https://arxiv.org/abs/1603.07396
"""

from tokensel.data.examples import digests, each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.question import Question


def load_ai2d(
    path: str = "lmms-lab/ai2d", split: str = "test", config: str | None = None, revision: str | None = None
) -> list[Question]:
    """The questions of a split, in its order.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: the hub's data set has test
        config, revision: of the hub's data set; null: its default, its newest

    Raises TokenselError for data that cannot be found or read, and an example without question, options or answer.
    """
    source = Source(str(path), str(split), config, revision)
    examples = load_examples(source, ("question", "options", "answer", "image"))
    pictures, image_ids = examples.select_columns(["image"]), digests(examples)
    questions = []
    for index, example in each_example(examples, source):
        choices = example.texts("options")
        questions.append(
            Question(
                id=str(index),
                text=example.text("question"),
                choices=choices,
                answer=example.choice("answer", choices),
                image=ExamplePicture(pictures, index),
                image_id=image_ids[index],
                split=source.split,
            )
        )
    return questions
