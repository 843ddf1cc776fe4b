"""MME: 2374 yes / no questions in 14 sub-tasks, two about each of 1187 pictures.

Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models", 2023,
https://arxiv.org/abs/2306.13394. Its forms give the same questions:

    lmms-lab/MME          on the hub, with the columns question_id ("code_reasoning/0020.png", the same for both
                          questions of a picture), image, question, answer, category
    a folder              of that, written by datasets' save_to_disk, or a copy of the repository
    the original folder   one folder per sub-task, with pictures and, beside them or in questions_answers_YN (the
                          pictures are then in images), a text file per picture: two lines "question<TAB>answer"

Every question ends in "Please answer yes or no.", where LLaVA's question file and lmms-eval say "Answer the question
using a single word or phrase." on a line of its own. So the sentence is taken out here, with the space before it.
(lmms-eval takes out one space, which leaves another one where the data set has two.)
"""

import re
from collections import Counter
from pathlib import Path

from tokensel.data.hub import RowPicture, Source, load_rows, local_folder
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
    """The questions of a split, in its order; of the original folder, by sub-task and file name.

    path                a data set on the hub, or a folder; see the head of this module
    split               of the hub's; the original folder has test only
    config, revision    of the hub's; null: its default, its newest

    category is the sub-task, image_id sub-task and picture. Raises TokenselError for what cannot be found or read, an
    unknown sub-task, and a picture that has not two questions.
    """
    folder = local_folder(path)
    if folder is not None and any((folder / task).is_dir() for task in MME_TASKS):
        check_choice("data.split", split, ["test"])
        questions = _original(folder)
    else:
        questions = _rows(Source(str(path), str(split), config, revision, _ORIGINAL))
    for picture, count in Counter(question.image_id for question in questions).items():
        if count != 2:
            raise TokenselError(f"data.path={path}: questions about picture {picture}: {count}; MME asks two")
    return questions


def _rows(source: Source) -> list[Question]:
    rows = load_rows(source, _COLUMNS)
    pictures = rows.select_columns(["image"])
    asked: Counter[str] = Counter()
    questions = []
    for number, row in enumerate(rows):
        where = f"data.path={source.path}: row {number}"
        if row["category"] not in MME_TASKS:
            raise TokenselError(f"{where}: category {row['category']} is none of {', '.join(MME_TASKS)}")
        picture = f"{row['category']}/{str(row['question_id']).rpartition('/')[2]}"
        asked[picture] += 1
        image = RowPicture(pictures, number)
        questions.append(_question(picture, asked[picture], row["question"], row["answer"], image, where, source.split))
    return questions


def _original(folder: Path) -> list[Question]:
    questions = []
    for task in MME_TASKS:
        texts, pictures = folder / task / "questions_answers_YN", folder / task / "images"
        if not texts.is_dir():
            texts = pictures = folder / task
        files = {file.stem: file for file in pictures.glob("*") if file.suffix.lower() in _SUFFIXES}
        for text in sorted(texts.glob("[!.]*.txt")):
            # A lost picture is that question's bad sample, not the end of the data set.
            image = files.get(text.stem, pictures / f"{text.stem}{_SUFFIXES[0]}")
            for number, (where, line) in enumerate(_lines(text), start=1):
                asked, tab, answer = line.partition("\t")
                if not tab:
                    raise TokenselError(f"{where}: has no tab between question and answer")
                questions.append(_question(f"{task}/{image.name}", number, asked, answer, image, where, "test"))
    return questions


def _lines(file: Path) -> list[tuple[str, str]]:
    """The lines that are not empty, each after words that tell a user where it is."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise TokenselError(f"{file}: cannot be read ({first_line(error)})") from error
    return [(f"{file}: line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _question(
    picture: str, number: int, text: str, answer: str, image: Path | RowPicture, where: str, split: str
) -> Question:
    """picture: sub-task and file; number: which of its questions, from 1."""
    asked = _OWN_INSTRUCTION.sub("", str(text or "")).strip()
    if not asked:
        raise TokenselError(f"{where}: has no question")
    task = picture.partition("/")[0]
    return Question(
        id=f"{picture}#{number}",
        text=asked,
        choices=YES_NO,
        answer=read_label(answer, where),
        image=image,
        image_id=picture,
        split=split,
        form="yes_no",
        category=task,
    )
