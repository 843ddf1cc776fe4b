"""Data sets as lists of questions, the wording of a prompt, and the reading of an answer.

    from tokensel.data import load_questions
    questions = load_questions("easy_vqa", limit=200)
    questions[0].text, questions[0].choices, questions[0].load_image()

A new data set is one file with a function that returns a list of `Question`, and one line in `catalogue.DATASETS`.

May import errors and functional. Imported by models and every package above it.
"""

from tokensel.data.catalogue import DATASETS, data_label, data_name, load_questions
from tokensel.data.order import draw_order, stable_hash
from tokensel.data.question import FORMS, LETTERS, NO_CHOICE, YES_NO, Benchmark, Question
from tokensel.data.video import FRAMES, Video

__all__ = [
    "DATASETS",
    "FORMS",
    "FRAMES",
    "LETTERS",
    "NO_CHOICE",
    "YES_NO",
    "Benchmark",
    "Question",
    "Video",
    "data_label",
    "data_name",
    "draw_order",
    "load_questions",
    "stable_hash",
]
