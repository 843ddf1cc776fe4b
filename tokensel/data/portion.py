"""Questions set aside to choose settings with, which the test never uses, for data sets without a validation split."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokensel.data.order import stable_hash
from tokensel.data.question import Question
from tokensel.errors import check_choice

PORTIONS = ("validation", "test")
# The share of pictures whose questions are for validation.
VALIDATION_SHARE = 0.25
# The split of validation questions, of data sets whose usual split is `test` and that have one.
SPLITS = {"diagrams": "validation", "scienceqa": "validation"}


def portion_of(question: Question) -> str:
    """Which portion a question belongs to: that of its picture, and without a picture, that of its group. It depends on
    nothing but the picture's, the group's or the question's id."""
    shared = question.image_id if question.is_visual else question.group or question.id
    digest = stable_hash("validation", shared)
    return "validation" if int(digest[:8], 16) < VALIDATION_SHARE * 2**32 else "test"


def only_portion(questions: Sequence[Question], portion: str) -> list[Question]:
    """The questions of one portion. Raises TokenselError for an unknown one."""
    check_choice("data.portion", portion, PORTIONS)
    return [question for question in questions if portion_of(question) == portion]


def portion_options(name: str, options: Mapping[str, Any], portion: str) -> dict[str, Any]:
    """The options with which a data set gives its questions for validation, or those for the test.

    They share no picture. Where the data set has a split for validation, and `options` name its test split, that split
    is taken, and the whole test split for the test; else a quarter of the pictures, always the same, and all others.
    """
    check_choice("data.portion", portion, PORTIONS)
    if name in SPLITS and options.get("split", "test") == "test":
        return dict(options) | {"split": SPLITS[name] if portion == "validation" else "test"}
    return dict(options) | {"portion": portion}
