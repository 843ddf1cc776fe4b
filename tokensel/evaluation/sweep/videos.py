"""What a sweep refuses, or leaves out, where questions show videos."""

import warnings
from collections.abc import Sequence
from typing import Any

from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.plan import Group
from tokensel.models.families import FAMILIES, family_of


def check_videos(group: Group, questions: Sequence[Question], config: Any | None) -> None:
    """Leaves out controls that reduce pictures where the questions show videos, with a warning.

    config: the model's; None if it is not known yet.

    Raises TokenselError for such a method that was asked for, and for a model that takes no videos where no question
    is about anything else.
    """
    videos = sum(question.video is not None for question in questions)
    if not videos:
        return
    if config is not None and videos == len(questions) and not family_of(config).videos:
        takes = ", ".join(name for name, family in FAMILIES.items() if family.videos)
        raise TokenselError(
            f"model.path={group.model.path}: data={group.data.name} shows videos, which model_type={config.model_type} "
            f"does not take; choose a model of {takes}"
        )
    for each in group.points:
        if each.point.picture_kept is None:
            continue
        name, why = each.point.method, "it reduces pictures, and questions show videos; try data.frames"
        if not each.control:
            raise TokenselError(f"method={name}: {why}")
        warnings.warn(f"controls: without {name} ({why})", stacklevel=1)
    group.points = [each for each in group.points if each.point.picture_kept is None]
