"""VizWiz-VQA: questions that blind people asked about photographs they took, each answered by ten others; 4319 in the
validation split. Many cannot be answered, and "unanswerable" is then right.

Supported forms: lmms-lab/VizWiz-VQA on the hub, with the columns question_id, image, question, answers and category; or
a folder with it, written by `save_to_disk` or cloned from the hub.

Source: Gurari et al., "VizWiz Grand Challenge: Answering Visual Questions from Blind People", CVPR 2018,
https://arxiv.org/abs/1802.08218
"""

from tokensel.data.examples import each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.prompts import YES_NO_INSTRUCTION
from tokensel.data.question import NO_CHOICE, Question

_COLUMNS = ("question_id", "image", "question", "answers")
#: As LLaVA's evaluation and lmms-eval's state it.
INSTRUCTION = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{YES_NO_INSTRUCTION}"


def load_vizwiz(
    path: str = "lmms-lab/VizWiz-VQA", split: str = "val", config: str | None = None, revision: str | None = None
) -> list[Question]:
    """The questions of a split, in its order, in the people's own words. A question's category is its answer's kind.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: val; the answers of test are not public
        config, revision: of the hub's data set; null: its default, its newest

    Every question has a picture of its own.

    Raises TokenselError for data that cannot be found or read, and an example without question or answers.
    """
    source = Source(str(path), str(split), config, revision)
    examples = load_examples(source, _COLUMNS)
    pictures = examples.select_columns(["image"])
    return [
        Question(
            id=example.text("question_id"),
            text=example.text("question"),
            choices=(),
            answer=NO_CHOICE,
            image=ExamplePicture(pictures, index),
            split=source.split,
            form="text",
            category=example.get("category"),
            answers=example.people(),
            scorer="textvqa",
            instruction=INSTRUCTION,
            max_new_tokens=128,  # as LLaVA's evaluation allows
        )
        for index, example in each_example(examples, source)
    ]
