"""The data sets by name, and loading one as a list of questions."""

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from tokensel.data.order import draw_order
from tokensel.data.portion import only_portion
from tokensel.data.question import Question
from tokensel.errors import TokenselError, as_typed, check_choice

# "module:function". Strings, so that a data set's dependencies are imported only when it is loaded.
DATASETS: dict[str, str] = {
    "ai2d": "tokensel.data.ai2d:load_ai2d",
    "chartqa": "tokensel.data.chartqa:load_chartqa",
    "diagrams": "tokensel.data.diagrams:load_diagrams",
    "easy_vqa": "tokensel.data.easy_vqa:load_easy_vqa",
    "gqa": "tokensel.data.gqa:load_gqa",
    "lmms": "tokensel.data.lmms:load_lmms",
    "mmbench": "tokensel.data.mmbench:load_mmbench",
    "mmbench_cn": "tokensel.data.mmbench:load_mmbench_cn",
    "mme": "tokensel.data.mme:load_mme",
    "mmmu": "tokensel.data.mmmu:load_mmmu",
    "moving_shapes": "tokensel.data.moving_shapes:load_moving_shapes",
    "pope": "tokensel.data.pope:load_pope",
    "question_file": "tokensel.data.question_file:load_question_file",
    "scienceqa": "tokensel.data.scienceqa:load_scienceqa",
    "seedbench": "tokensel.data.seedbench:load_seedbench",
    "textvqa": "tokensel.data.textvqa:load_textvqa",
    "vizwiz": "tokensel.data.vizwiz:load_vizwiz",
}
# What a type of an option is called in messages.
_TYPE_WORDS: tuple[tuple[Any, str], ...] = (
    (str, "text"),
    (int, "an integer"),
    (bool, "true or false"),
    (Sequence[str], "a list of names"),
    (NoneType, "null"),
)


def load_questions(
    name: str, limit: int | None = None, portion: str | None = None, **options: object
) -> list[Question]:
    """The questions of the data set `name`, in the data set's order.

    Parameters:
        limit: the largest number of questions: the first ones by `draw_order`. The subset is therefore the same in
            every run, mixes families whatever the order of the file, and contains the subset of any smaller limit.
        portion: "validation" or "test", to leave out the questions of the other, `tokensel.data.portion`; None: all.
        options: the data set's own; see its load function

    Raises TokenselError for an unknown name or option (the message lists the allowed ones), a missing option, a limit
    below 1, a data set without questions, or a repeated question id.
    """
    loader = _loader(name)
    parameters = inspect.signature(loader).parameters
    for option in options:
        if option not in parameters:
            allowed = ", ".join(parameters)
            raise TokenselError(f"data.{option}: data={name} has no such option; its options are {allowed}")
    for parameter in parameters.values():
        if parameter.default is parameter.empty and options.get(parameter.name) is None:
            raise TokenselError(f"data.{parameter.name}: data={name} requires this option")
    _check_types(loader, options)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise TokenselError(f"limit={limit}: must be a whole number of at least 1, or null for all questions")

    questions = loader(**options)
    questions = questions if portion is None else only_portion(questions, portion)
    if not questions:
        given = " ".join(f"data.{option}={as_typed(value)}" for option, value in options.items())
        raise TokenselError(f"data={name}: contains no question with these options: {given}")
    repeated = [id for id, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        raise TokenselError(f"data={name}: question id {repeated[0]} occurs more than once; ids must be unique")
    if limit is None or limit >= len(questions):
        return questions
    chosen = {question.id for question in sorted(questions, key=draw_order)[:limit]}
    return [question for question in questions if question.id in chosen]


def data_label(name: str | None, options: Mapping[str, Any] | None) -> str | None:
    """What tables call a data set: its name, and the task's where it holds several benchmarks, as in "lmms:pope"."""
    task = (options or {}).get("task")
    return f"{name}:{task}" if task else name


def data_name(label: str) -> str:
    """The name of the data set that `data_label` labelled."""
    return label.partition(":")[0]


def _check_types(loader: Callable[..., list[Question]], options: Mapping[str, object]) -> None:
    """Refuses a value of another type than the load function declares, and empty text."""
    hints = get_type_hints(loader)
    for option, value in options.items():
        try:
            if value == "":
                raise ValueError("empty")
            TypeAdapter(hints[option], config=ConfigDict(strict=True)).validate_python(value)
        except ValueError as error:
            words = [text for kind, text in _TYPE_WORDS if kind in (hints[option], *get_args(hints[option]))]
            raise TokenselError(f"data.{option}={as_typed(value)}: must be {' or '.join(words)}") from error


def _loader(name: str) -> Callable[..., list[Question]]:
    check_choice("data", name, DATASETS)
    module, function = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), function)
