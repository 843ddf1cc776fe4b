"""ChartQA: 2500 questions about charts in its test split; people wrote one half, the other half was generated from
people's summaries. A number is right if it is within 5%.

Supported forms: lmms-lab/ChartQA on the hub, with the columns type, question, answer and image; or a folder with it,
written by `save_to_disk` or cloned from the hub. The examples have no id: it is their index in the split.

Source: Masry et al., "ChartQA: A Benchmark for Question Answering about Charts with Visual and Logical Reasoning", ACL
2022 Findings, https://arxiv.org/abs/2203.10244
"""

from tokensel.data.examples import digests, each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.question import NO_CHOICE, Question

#: As lmms-eval states it.
INSTRUCTION = "Answer the question with a single word."


def load_chartqa(
    path: str = "lmms-lab/ChartQA", split: str = "test", config: str | None = None, revision: str | None = None
) -> list[Question]:
    """The questions of a split, in its order. A question's category is its type: human_test or augmented_test.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: the hub's data set has test
        config, revision: of the hub's data set; null: its default, its newest

    Raises TokenselError for data that cannot be found or read, and an example without question or answer.
    """
    source = Source(str(path), str(split), config, revision)
    examples = load_examples(source, ("type", "question", "answer", "image"))
    pictures, image_ids = examples.select_columns(["image"]), digests(examples)
    return [
        Question(
            id=str(index),
            text=example.text("question"),
            choices=(),
            answer=NO_CHOICE,
            image=ExamplePicture(pictures, index),
            image_id=image_ids[index],
            split=source.split,
            form="text",
            category=example.get("type"),
            answers=(example.text("answer"),),
            scorer="relaxed",
            instruction=INSTRUCTION,
        )
        for index, example in each_example(examples, source)
    ]
