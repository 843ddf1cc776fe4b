"""Which visual tokens of a picture each method keeps, what they gather, and what the model then answers.

    python -m runners.show image=cat.png question="Is there a cat?" choices=yes,no method=fps,tome,fastv kept=8,32
    python -m runners.show data=diagrams question_id=diagrams-test-shape-3 method=fps,tome kept=8,32 output=shape.html
    python -m runners.show image=cat.png question="What is this?" model=/models/llava-1.5-7b-hf kept=64

Draws the survivors on the picture and, below, the weights with which each of them gathers the others, every method
beside the others, into one PNG or HTML page. Without choices the model answers in words. Arguments:

    image, question, choices           a picture of yours, what to ask, and the options if there are any
    data, question_id                  or a question of a data set: diagrams, easy_vqa, question_file with path and
                                       image_folder, ..; data.OPTION its options. Without question_id any
    method (fps,tome,fastv)            names, or FILE.py:CLASS; method.OPTION their options
    kept (8,32)                        [64,16] for two stages
    agg_layer, temperature, aggregation, position, seed             as for the sweep
    model (tiny), dtype, device        tiny, a folder, or a hub id
    conv, prompt, image_aspect         the protocol, as for the sweep
    output (outputs/show.png)          a .png or .html file

The last line of standard output is one JSON object: output, image, question, visual_tokens, full (the unreduced model's
answer), and for every method and kept the answer, its margin, and the positions.
"""

import json
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from runners.terminal.arguments import read_arguments, read_integer, read_list, read_value, write_whole
from tokensel.errors import TokenselError

_KEYS = (
    *("image", "question", "choices", "data", "question_id", "path", "image_folder", "method", "kept", "agg_layer"),
    *("temperature", "aggregation", "position", "seed", "model", "dtype", "device", "conv", "prompt", "image_aspect"),
    "output",
)
_PREFIXES = ("method.", "data.")
_SUFFIXES = (".png", ".html")
_ITEM = re.compile(r"\[[^\]]*\]|[^,\[\]]+")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws with these arguments (default: the command line's). Returns 0, or 2 for a mistake in them."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="kept=.*nothing is removed")  # ends in an error here
            print(json.dumps(_run(arguments)), flush=True)
    except TokenselError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True)
class _Asked:
    """What the arguments ask for. points: a row for each kept, a method in each column."""

    question: Any
    in_words: bool
    points: list[list[Any]]
    output: Path


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    plain, given = read_arguments(arguments, _KEYS, _PREFIXES)
    if plain:
        raise TokenselError(f"{plain[0]}: cannot be read as KEY=VALUE")
    asked = _asked(given)
    from analysis.survivors import Tracer

    tracer = Tracer(_model(given), asked.question, asked.in_words)
    table = [[_survivors(tracer, point) for point in line] for line in asked.points]
    full, _ = tracer.full_answer()
    write_whole(asked.output, _drawn(tracer, table, asked, full))
    _print_table(table, full)
    print(f"Drawn: {asked.output}")
    return {
        "output": str(asked.output),
        "image": given.get("image") or asked.question.image_id,
        "question": asked.question.text,
        "visual_tokens": tracer.visual_tokens,
        "full": full,
        "answers": [_record(survivors) for line in table for survivors in line],
    }


def _survivors(tracer: Any, point: Any) -> Any:
    try:
        return tracer.survivors(point)
    except TokenselError:
        raise
    except Exception as error:  # whatever a user's method raises
        raise TokenselError(f"method={point.method}: failed: {_told(error)}") from error


def _told(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _asked(given: dict[str, str]) -> _Asked:
    """Everything that can be checked before a model is loaded. Raises TokenselError, naming key, value and remedy."""
    output = Path(given.get("output", "outputs/show.png"))
    if output.suffix not in _SUFFIXES:
        raise TokenselError(f"output={output}: must end in {' or '.join(_SUFFIXES)}")
    points = _points(given)
    if "image" in given and "data" in given:
        raise TokenselError("image, data: give one of them, not both")
    if "image" in given:
        question, in_words = _own_question(given)
    elif "data" in given:
        question, in_words = _question_of_data(given), False
    else:
        raise TokenselError("image: give a picture and a question, or data=diagrams")
    question.load_image()
    return _Asked(question, in_words, points, output)


def _own_question(given: dict[str, str]) -> tuple[Any, bool]:
    from tokensel.data import Question
    from tokensel.errors import BadSampleError

    image = Path(given["image"]).expanduser()
    if not given.get("question", "").strip():
        raise TokenselError('question: missing; what shall be asked about the picture? question="Is there a cat?"')
    if not image.is_file():
        raise TokenselError(f"image={image}: no such file")
    choices = tuple(read_list(given.get("choices", "")))
    if len(choices) == 1:
        raise TokenselError(f"choices={given['choices']}: must be two or more, as in choices=yes,no; or leave them out")
    question = Question("question", given["question"], choices or ("-",), 0, image, image_id=image.name)
    try:
        question.load_image()
    except BadSampleError as error:
        raise TokenselError(f"image={image}: cannot be read as a picture") from error
    return question, not choices


def _question_of_data(given: dict[str, str]) -> Any:
    from tokensel.data import draw_order, load_questions

    options = {key.removeprefix("data."): read_value(value) for key, value in given.items() if key.startswith("data.")}
    options |= {key: given[key] for key in ("path", "image_folder") if key in given}
    questions = [each for each in load_questions(given["data"], **options) if each.image is not None]
    if not questions:
        raise TokenselError(f"data={given['data']}: none of its questions has a picture")
    wanted = given.get("question_id")
    if wanted is None:
        return min(questions, key=draw_order)
    for question in questions:
        if question.id == wanted:
            return question
    raise TokenselError(f"question_id={wanted}: no such question with a picture; {questions[0].id} is one")


def _points(given: dict[str, str]) -> list[list[Any]]:
    from tokensel.evaluation.grid_point import GridPoint
    from tokensel.methods import find_method

    methods = read_list(given.get("method", "fps,tome,fastv"))
    counts = [_stages("kept", item) for item in _ITEM.findall(given.get("kept", "8,32")) if item.strip()]
    if not methods or not counts:
        raise TokenselError("method, kept: give at least one of each")
    options = {
        key.removeprefix("method."): read_value(value) for key, value in given.items() if key.startswith("method.")
    }
    own: dict[str, dict[str, Any]] = {}
    for name in methods:
        kind = find_method(name)
        if kind.passes_through or kind.fixed_kept is not None:
            raise TokenselError(f"method={name}: chooses no visual tokens, so there are no survivors to draw")
        known = [field.name for field in fields(kind)]
        own[name] = {option: value for option, value in options.items() if option in known}
    for option, value in options.items():
        if not any(option in taken for taken in own.values()):
            raise TokenselError(f"method.{option}={value}: none of the methods {', '.join(methods)} has this option")
    shared: dict[str, Any] = {
        key: given[key] for key in ("aggregation", "position") if given.get(key, "null") != "null"
    }
    if given.get("agg_layer", "null") != "null":
        shared["agg_layer"] = _stages("agg_layer", given["agg_layer"])
    if "temperature" in given:
        shared["temperature"] = read_value(given["temperature"])
    shared["seed"] = read_integer(given, "seed", default=0)
    try:
        return [
            [GridPoint(find_method(name).name, kept, method_options=own[name], **shared) for name in methods]
            for kept in counts
        ]
    except TypeError as error:  # an option of a type that the method does not expect
        told = " ".join(f"method.{option}={value}" for option, value in options.items())
        raise TokenselError(f"{told or 'method'}: cannot be used: {_told(error)}") from error


def _stages(key: str, text: str) -> int | tuple[int, ...]:
    """An integer, or several in brackets."""
    value = read_value(text)
    values = value if isinstance(value, list) and value else [value]
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in values):
        raise TokenselError(f"{key}={text}: must be an integer, or several for several stages: {key}=[..]")
    return tuple(values) if isinstance(value, list) else values[0]


def _model(given: dict[str, str]) -> Any:
    from tokensel.data.protocol import Protocol
    from tokensel.models import load_model

    told = {key: given[key] for key in ("conv", "prompt", "image_aspect") if key in given}
    protocol = Protocol(**told)
    model = given.get("model", "tiny")
    dtype = given.get("dtype", "float32" if model == "tiny" else "auto")
    return load_model(model, dtype=dtype, device=given.get("device", "auto")).with_protocol(protocol)


def _drawn(tracer: Any, table: list[list[Any]], asked: _Asked, full: str) -> bytes:
    question = asked.question
    choices = "" if asked.in_words else " ".join(f"{letter}. {each}" for letter, each in _lettered(question.choices))
    if asked.output.suffix == ".html":
        from analysis.report.survivors_page import survivors_page

        meta = " · ".join(filter(None, (choices, f"the full model answers {full}", question.id)))
        return survivors_page(tracer.picture(), table, tracer.grid, question.text, meta).encode()
    from analysis.maps import survivors_figure

    title = "\n".join(filter(None, (question.text, choices, f"the full model answers {full!r}")))
    return survivors_figure(tracer.picture(), table, tracer.grid, title)


def _lettered(choices: Sequence[str]) -> list[tuple[str, str]]:
    from tokensel.data import LETTERS

    return list(zip(LETTERS, choices, strict=False))


def _record(survivors: Any) -> dict[str, Any]:
    from analysis.survivors import effective_tokens

    weights = survivors.weights
    return {
        "method": survivors.point.method,
        "kept": len(survivors.positions),
        "agg_layer": survivors.layer,
        "answer": survivors.answer,
        "margin": survivors.margin,
        "positions": list(survivors.positions),
        "gathers": survivors.gathers,
        "effective_tokens": None if weights is None else [round(float(each), 2) for each in effective_tokens(weights)],
    }


def _print_table(table: list[list[Any]], full: str) -> None:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "kept", "before layer", "gathers", "answer", "margin"):
        shown.add_column(name, justify="left" if name in ("method", "gathers", "answer") else "right", no_wrap=True)
    shown.add_row("full", "", "", "", _plain(full), "")
    for survivors in (survivors for line in table for survivors in line):
        margin = "" if survivors.margin is None else f"{survivors.margin:.2f}"
        cells = (survivors.point.method, str(len(survivors.positions)), str(survivors.layer), survivors.gathers)
        shown.add_row(*cells, _plain(survivors.answer), margin)
    Console(width=None if Console().is_terminal else 160).print(shown)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


if __name__ == "__main__":
    sys.exit(main())
