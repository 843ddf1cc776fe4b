"""TextVQA: questions about the text in photographs, each answered by ten people; 5000 in the validation split.

Supported forms: lmms-lab/textvqa on the hub, with the columns question_id, question, image, answers, image_id and
ocr_tokens; or a folder with it, written by `save_to_disk` or cloned from the hub.

LLaVA's published accuracy is with the words that an OCR system read in the picture (ocr=true); lmms-eval's is without.

Source: Singh et al., "Towards VQA Models That Can Read", CVPR 2019, https://arxiv.org/abs/1904.08920
"""

from tokensel.data.examples import digests, each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.question import NO_CHOICE, Question

_COLUMNS = ("question_id", "question", "image", "answers")


def load_textvqa(
    path: str = "lmms-lab/textvqa",
    split: str = "validation",
    ocr: bool = False,
    config: str | None = None,
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split, in its order, in the data set's own words.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: train or validation; the answers of test are not public
        ocr: states the words that an OCR system read, on a line "Reference OCR token: ..." behind the question
        config, revision: of the hub's data set; null: its default, its newest

    Raises TokenselError for data that cannot be found or read, and an example without question or answers.
    """
    source = Source(str(path), str(split), config, revision)
    examples = load_examples(source, (*_COLUMNS, "ocr_tokens") if ocr else _COLUMNS)
    pictures = examples.select_columns(["image"])
    ids = examples["image_id"] if "image_id" in examples.column_names else digests(examples)
    questions = []
    for index, example in each_example(examples, source):
        words = example.text("question")
        if ocr:
            read = example.texts("ocr_tokens") if example.fields["ocr_tokens"] else ()
            words += f"\nReference OCR token: {', '.join(read)}"
        questions.append(
            Question(
                id=example.text("question_id"),
                text=words,
                choices=(),
                answer=NO_CHOICE,
                image=ExamplePicture(pictures, index),
                image_id=str(ids[index] or ""),
                split=source.split,
                form="text",
                answers=example.people(),
                scorer="textvqa",
                max_new_tokens=128,  # as LLaVA's evaluation allows
            )
        )
    return questions
