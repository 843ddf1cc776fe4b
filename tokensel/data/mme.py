"""MME: 2374 yes/no questions in 14 sub-tasks, two about each of 1187 pictures.

Supported forms, which give the same questions:

    lmms-lab/MME          on the hub, with the columns question_id ("code_reasoning/0020.png", the same for both
                          questions about a picture), image, question, answer, category
    a folder              with that data set, written by `save_to_disk` or cloned from the hub
    the original folder   one folder per sub-task with pictures and, beside them or in questions_answers_YN (the
                          pictures are then in images), a text file per picture: two lines "question<TAB>answer"

Every question ends in "Please answer yes or no.". LLaVA's question file and lmms-eval replace this sentence by "Answer
the question using a single word or phrase." on its own line. The sentence is therefore removed here, with all space
before it. (lmms-eval removes one space, so one remains where the data set has two.)

Source: Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models", 2023,
https://arxiv.org/abs/2306.13394
"""

import re
from collections import Counter
from pathlib import Path

from tokensel.data.hub import ExamplePicture, Source, load_examples, local_folder
from tokensel.data.question import YES_NO, Question
from tokensel.data.yes_no import MME_TASKS, read_label
from tokensel.errors import TokenselError, check_choice, first_line

_COLUMNS = ("question_id", "image", "question", "answer", "category")
_ORIGINAL = "the original with a folder per sub-task"
_OWN_INSTRUCTION = re.compile(r"\s*Please answer yes or no\.?", re.IGNORECASE)
_SUFFIXES = (".jpg", ".png", ".jpeg")


def load_mme(
    path: str = "lmms-lab/MME", split: str = "test", config: str | None = None, revision: str | None = None
) -> list[Question]:
    """The questions of a split, in its order; those of the original folder by sub-task and file name.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: a split of the hub's data set; the original folder has only test
        config, revision: of the hub's data set; null: its default, its newest

    A question's category is its sub-task; its image_id is sub-task and picture.

    Raises TokenselError for data that cannot be found or read, an unknown sub-task, and a picture without exactly two
    questions.
    """
    folder = local_folder(path)
    if folder is not None and any((folder / task).is_dir() for task in MME_TASKS):
        check_choice("data.split", split, ["test"])
        questions = _from_original(folder)
    else:
        questions = _from_hub(Source(str(path), str(split), config, revision, _ORIGINAL))
    for picture, count in Counter(question.image_id for question in questions).items():
        if count != 2:
            raise TokenselError(f"data.path={path}: questions about picture {picture}: {count}; must be 2")
    return questions


def _from_hub(source: Source) -> list[Question]:
    examples = load_examples(source, _COLUMNS)
    pictures = examples.select_columns(["image"])
    counts: Counter[str] = Counter()
    questions = []
    for index, example in enumerate(examples):
        where = f"data.path={source.path}: example {index}"
        if example["category"] not in MME_TASKS:
            raise TokenselError(f"{where}: category {example['category']} is none of {', '.join(MME_TASKS)}")
        picture = f"{example['category']}/{str(example['question_id']).rpartition('/')[2]}"
        counts[picture] += 1
        image = ExamplePicture(pictures, index)
        question, answer, number = example["question"], example["answer"], counts[picture]
        questions.append(_question(picture, number, question, answer, image, where, source.split))
    return questions


def _from_original(folder: Path) -> list[Question]:
    questions = []
    for task in MME_TASKS:
        texts, pictures = folder / task / "questions_answers_YN", folder / task / "images"
        if not texts.is_dir():
            texts = pictures = folder / task
        files = {file.stem: file for file in pictures.glob("*") if file.suffix.lower() in _SUFFIXES}
        for text in sorted(texts.glob("[!.]*.txt")):
            # A missing picture makes its questions bad samples; the others remain usable.
            image = files.get(text.stem, pictures / f"{text.stem}{_SUFFIXES[0]}")
            for number, (where, line) in enumerate(_lines(text), start=1):
                question, tab, answer = line.partition("\t")
                if not tab:
                    raise TokenselError(f"{where}: has no tab between question and answer")
                questions.append(_question(f"{task}/{image.name}", number, question, answer, image, where, "test"))
    return questions


def _lines(file: Path) -> list[tuple[str, str]]:
    """The non-empty lines, each with a description of its position for messages."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise TokenselError(f"{file}: cannot be read ({first_line(error)})") from error
    return [(f"{file}: line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _question(
    picture: str, number: int, text: str, answer: str, image: Path | ExamplePicture, where: str, split: str
) -> Question:
    """picture: sub-task and file. number: 1 for the picture's first question, 2 for its second."""
    words = _OWN_INSTRUCTION.sub("", str(text or "")).strip()
    if not words:
        raise TokenselError(f"{where}: has no question")
    task = picture.partition("/")[0]
    return Question(
        id=f"{picture}#{number}",
        text=words,
        choices=YES_NO,
        answer=read_label(answer, where),
        image=image,
        image_id=picture,
        split=split,
        form="yes_no",
        category=task,
    )
