"""The arguments of `runners.show` as a question, grid points and a model. Mistakes are found before a model loads."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from analysis.survivors import choice_name
from runners.terminal.arguments import read_integer, read_list, read_value
from tokensel.data import FRAMES, LETTERS, NO_CHOICE, Question, Video, draw_order, load_questions
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.sweep.plan import aggregator_as_typed, options_as_typed
from tokensel.methods import find_method
from tokensel.models import LoadedModel, load_model

_SUFFIXES = (".png", ".html")
# An item of a list such as 8,[64,16],32.
_ITEM = re.compile(r"\[[^\]]*\]|[^,\[\]]+")


@dataclass(frozen=True)
class Request:
    """What to draw.

    in_words   whether the model answers in words; otherwise it chooses among the question's choices
    points     a list for each kept, with a grid point for each method
    output     a .png or .html file
    correct    the correct answer as the model would give it; None if it is not known
    """

    question: Question
    in_words: bool
    points: list[list[GridPoint]]
    output: Path
    correct: str | None = None


def read_request(given: dict[str, str]) -> Request:
    """Raises TokenselError for any mistake that can be found without loading a model."""
    output = Path(given["output"])
    if output.suffix not in _SUFFIXES:
        raise TokenselError(f"output={output}: must end in {' or '.join(_SUFFIXES)}")
    points = _points(given)
    shown = [key for key in ("image", "video", "data") if key in given]
    if len(shown) > 1:
        raise TokenselError(f"{', '.join(shown)}: give one of them")
    if "frames" in given and "video" not in given:
        raise TokenselError(f"frames={given['frames']}: needs video=; for a data set's videos use data.frames")
    if "image" in given or "video" in given:
        question, in_words = _own_question(given)
        known = "answer" in given
    elif "data" in given:
        if "answer" in given:
            raise TokenselError("answer: the data set has its own; give it only with image= or video=")
        question = _question_of_data(given)
        in_words, known = question.form == "text", bool(question.choices or question.answers)
    else:
        raise TokenselError("image: give a picture or video and a question, or data=diagrams")
    _load(question)
    correct = None
    if known:
        correct = _correct(given, question, in_words)
    return Request(question, in_words, points, output, correct)


def load_requested_model(given: dict[str, str]) -> LoadedModel:
    """The model with the protocol of the arguments."""
    protocol = Protocol(**{key: given[key] for key in ("conv", "prompt", "image_aspect") if key in given})
    model = given.get("model", "tiny")
    dtype = given.get("dtype", "float32" if model == "tiny" else "auto")
    options: dict[str, Any] = {"dtype": dtype, "device": given.get("device", "auto"), "family": given.get("family")}
    return load_model(model, **options).with_protocol(protocol)


def error_line(error: Exception) -> str:
    """The error's type and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _own_question(given: dict[str, str]) -> tuple[Question, bool]:
    """The question about the user's picture or video, and whether it is answered in words."""
    key = "image" if "image" in given else "video"
    path = Path(os.path.expanduser(given[key]))
    if not given.get("question", "").strip():
        raise TokenselError('question: missing; ask something about what is shown, as question="Is there a cat?"')
    if not (os.path.exists(path) if key == "video" else os.path.isfile(path)):
        raise TokenselError(f"{key}={path}: no such file{' or folder' if key == 'video' else ''}")
    choices = tuple(read_list(given.get("choices", "")))
    if len(choices) == 1:
        raise TokenselError(f"choices={given['choices']}: must be two or more, such as choices=yes,no; or omit them")
    answer = _own_answer(given["answer"], choices) if choices and "answer" in given else 0
    shown: dict[str, Any] = {"image": path} if key == "image" else _own_video(path, given)
    question = Question("question", given["question"], choices or ("-",), answer, image_id=path.name, **shown)
    try:
        _load(question)
    except BadSampleError as error:
        kind = "picture" if key == "image" else "video"
        raise TokenselError(f"{key}={path}: cannot be read as a {kind}") from error
    return question, not choices


def _own_video(path: Path, given: dict[str, str]) -> dict[str, Any]:
    frames = read_integer(given, "frames", default=FRAMES)
    if frames < 1:
        raise TokenselError(f"frames={frames}: must be at least 1")
    return {"image": None, "video": Video(path), "frames": frames}


def _load(question: Question) -> None:
    """Raises BadSampleError for a picture or video that cannot be read."""
    if question.video:
        question.load_frames()
    else:
        question.load_image()


def _correct(given: dict[str, str], question: Question, in_words: bool) -> str | None:
    """The correct answer; None where only the question's benchmark knows it."""
    if in_words:
        return given["answer"] if "answer" in given else " / ".join(dict.fromkeys(question.answers)) or None
    return None if question.answer == NO_CHOICE else choice_name(question, question.answer)


def _own_answer(text: str, choices: tuple[str, ...]) -> int:
    """The index of the correct choice, which is given as it stands in choices or by its letter."""
    named = [choice.casefold() for choice in choices]
    if text.casefold() in named:
        return named.index(text.casefold())
    if len(text) == 1 and text.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(text.upper())
    raise TokenselError(f"answer={text}: must be one of the choices {', '.join(choices)}, or its letter")


def _question_of_data(given: dict[str, str]) -> Question:
    """The data set's question with the given id; without an id, the first in `draw_order` that shows something."""
    options = {key.removeprefix("data."): read_value(value) for key, value in given.items() if key.startswith("data.")}
    options |= {key: given[key] for key in ("path", "image_folder") if key in given}
    questions = [question for question in load_questions(given["data"], **options) if question.is_visual]
    if not questions:
        raise TokenselError(f"data={given['data']}: none of its questions has a picture or video")
    wanted = given.get("question_id")
    if wanted is None:
        return min(questions, key=draw_order)
    for question in questions:
        if question.id == wanted:
            return question
    raise TokenselError(f"question_id={wanted}: no such question with a picture or video; {questions[0].id} is one")


def _points(given: dict[str, str]) -> list[list[GridPoint]]:
    methods = read_list(given.get("method", "fps,tome,fastv"))
    counts = [_integers("kept", item) for item in _ITEM.findall(given.get("kept", "8,32")) if item.strip()]
    if not methods or not counts:
        raise TokenselError("method, kept: give at least one of each")
    options = {
        key.removeprefix("method."): read_value(value) for key, value in given.items() if key.startswith("method.")
    }
    own = _options_by_method(methods, options)
    shared: dict[str, Any] = {
        key: given[key] for key in ("aggregation", "position") if given.get(key, "null") != "null"
    }
    if shared.get("aggregation") == "learned":
        embedded = "tiny" if given.get("model", "tiny") == "tiny" else None
        shared["aggregator"] = given.get("aggregation.path", embedded)
    elif "aggregation.path" in given:
        raise TokenselError(f"aggregation.path={given['aggregation.path']}: only aggregation=learned reads it")
    if given.get("agg_layer", "null") != "null":
        shared["agg_layer"] = _integers("agg_layer", given["agg_layer"])
    if "temperature" in given:
        shared["temperature"] = read_value(given["temperature"])
    shared["seed"] = read_integer(given, "seed", default=0)
    try:
        with options_as_typed(options), aggregator_as_typed():
            points = [
                [GridPoint(find_method(name).name, kept, method_options=own[name], **shared) for name in methods]
                for kept in counts
            ]
            for point in points[0]:
                point.settings()  # looks for what a method loads, such as CDPruner's CLIP
            return points
    except TypeError as error:  # an option of a type that the method does not expect
        named = " ".join(f"method.{option}={value}" for option, value in options.items())
        raise TokenselError(f"{named or 'method'}: cannot be used: {error_line(error)}") from error


def _options_by_method(methods: list[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each method, those of the options that it has.

    Raises TokenselError for a method that selects no visual tokens, and for an option that no method has.
    """
    own: dict[str, dict[str, Any]] = {}
    for name in methods:
        kind = find_method(name)
        if not kind.takes_kept() or kind.changes_picture:
            raise TokenselError(f"method={name}: chooses no visual tokens, so there are no survivors to draw")
        known = [field.name for field in fields(kind)]
        own[name] = {option: value for option, value in options.items() if option in known}
    for option, value in options.items():
        if not any(option in taken for taken in own.values()):
            raise TokenselError(f"method.{option}={value}: none of the methods {', '.join(methods)} has this option")
    return own


def _integers(key: str, text: str) -> int | tuple[int, ...]:
    """An integer, or for several stages a tuple, written in brackets."""
    value = read_value(text)
    values = value if isinstance(value, list) and value else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in values):
        raise TokenselError(f"{key}={text}: must be an integer, or {key}=[..] for several stages")
    return tuple(values) if isinstance(value, list) else values[0]
