"""MMMU: college-level questions of thirty subjects with up to seven pictures, 900 in the validation split; most are
multiple-choice, one in twenty is open.

Supported forms: lmms-lab/MMMU on the hub, with the columns id, question, options, answer, question_type and image_1 to
image_7; or a folder with it, written by `save_to_disk` or cloned from the hub.

The pictures that the words name ("<image 1>") stand before them, and the names stay, as in lmms-eval's mmmu_val. An
answer by letter is read as the protocol says; MMMU's own script guesses at random where it finds no letter.

Source: Yue et al., "MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for Expert AGI",
CVPR 2024, https://arxiv.org/abs/2311.16502
"""

import ast
import re
from typing import Any

from tokensel.data.examples import Example, each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.prompts import INSTRUCTION, YES_NO_INSTRUCTION
from tokensel.data.question import NO_CHOICE, Question

_PICTURES = tuple(f"image_{number}" for number in range(1, 8))
_COLUMNS = ("id", "question", "options", "answer", "question_type")
_NAMED = re.compile(r"<image ([1-7])>")
_OF_SUBJECT = re.compile(r"[^_]*_(.+)_\d+")


def load_mmmu(
    path: str = "lmms-lab/MMMU", split: str = "validation", config: str | None = None, revision: str | None = None
) -> list[Question]:
    """The questions of a split, in its order. A question's category is its subject.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: dev or validation; the answers of test are not public
        config, revision: of the hub's data set; null: its default, its newest

    Raises TokenselError for data that cannot be found or read, and an example without question, options or answer.
    """
    source = Source(str(path), str(split), config, revision)
    examples = load_examples(source, (*_COLUMNS, _PICTURES[0]), _PICTURES)
    pictures = examples.select_columns([column for column in _PICTURES if column in examples.column_names])
    questions = []
    for index, example in each_example(examples, source, _PICTURES):
        text, id = example.text("question"), example.text("id")
        if example.text("answer") == "?":
            raise example.no_answer()
        is_open = example.text("question_type") == "open"
        choices = () if is_open else _options(example)
        named = sorted(set(_NAMED.findall("\n".join((text, *choices)))))
        if missing := [number for number in named if f"image_{number}" not in pictures.column_names]:
            raise example.error(f"names <image {missing[0]}>, but there is no column image_{missing[0]}")
        subject = _OF_SUBJECT.fullmatch(id)
        questions.append(
            Question(
                id=id,
                text=text,
                choices=choices,
                answer=NO_CHOICE if is_open else example.choice("answer", choices),
                image=[ExamplePicture(pictures, index, f"image_{number}") for number in named],
                split=source.split,
                topic=example.get("subfield"),
                form="text" if is_open else "choices",
                category=subject[1] if subject else "",
                **_answering(example, is_open),
            )
        )
    return questions


def _answering(example: Example, is_open: bool) -> dict[str, Any]:
    """How a question is to be answered. The instruction follows an empty line, as in lmms-eval."""
    if not is_open:
        return {"instruction": f"\n{INSTRUCTION}"}
    answers = _literal(example.text("answer"))
    several = answers if isinstance(answers, list) and answers else [example.text("answer")]
    writing = {"instruction": f"\n{YES_NO_INSTRUCTION}", "scorer": "mmmu", "max_new_tokens": 128}
    return writing | {"answers": tuple(map(str, several))}


def _options(example: Example) -> tuple[str, ...]:
    """The choices, which the data set has as the text of a list."""
    options = _literal(example.get("options"))
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(each, str) for each in options):
        raise example.error(f"options {example.get('options')!r:.40} must be a list of texts")
    return tuple(options)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
