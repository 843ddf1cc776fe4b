"""Survivors of a grid point: as a picture or an HTML page, as records of the JSON line, and as a table."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.maps import survivors_figure
from analysis.report.survivors_page import survivors_page
from analysis.survivors import Survivors, Tracer, effective_tokens, is_right
from runners.survivors.request import Request, error_line
from tokensel.data import LETTERS
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint

# A line for each kept, with the survivors of each method.
SurvivorGrid = list[list[Survivors]]


def trace(tracer: Tracer, point: GridPoint) -> Survivors:
    """The survivors of a grid point. Raises TokenselError, also for whatever a user's method raises."""
    try:
        return tracer.survivors(point)
    except TokenselError:
        raise
    except Exception as error:
        raise TokenselError(f"method={point.method}: failed: {error_line(error)}") from error


def draw(tracer: Tracer, grid: SurvivorGrid, request: Request, full: str) -> bytes:
    """The contents of the output file. full: the unreduced model's answer."""
    question, correct = request.question, request.correct
    offered = () if request.in_words else question.choices
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, offered, strict=False)]
    whole = "the frames" if question.video else "the whole picture"
    known = "" if correct is None else f"the correct answer is {correct}"
    if request.output.suffix == ".html":
        meta = " · ".join(filter(None, (*choices, known, question.id)))
        page = survivors_page(tracer.picture(), grid, tracer.grid, question.text, meta, full, correct, whole)
        return page.encode()
    title = "\n".join(filter(None, (question.text, "   ".join(choices), known)))
    return survivors_figure(tracer.picture(), grid, tracer.grid, title, full, correct, whole_name=whole)


def as_record(survivors: Survivors, correct: str | None) -> dict[str, Any]:
    """The record of one method at one kept, for the JSON line. correct: the correct answer; None if it is not known."""
    weights = survivors.weights
    return {
        "method": survivors.point.method,
        "kept": len(survivors.positions),
        "agg_layer": survivors.layer,
        "answer": survivors.answer,
        "correct": is_right(survivors.answer, correct),
        "margin": survivors.margin,
        "positions": list(survivors.tokens),
        "gathers": survivors.gathers,
        "effective_tokens": None if weights is None else [round(float(n), 2) for n in effective_tokens(weights)],
    }


def print_table(grid: SurvivorGrid, full: str, correct: str | None) -> None:
    """Prints a line for the full model, and one for each method and kept. correct: the correct answer, if known."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "kept", "before layer", "gathers", "answer", "margin"):
        table.add_column(name, justify="left" if name in ("method", "gathers", "answer") else "right", no_wrap=True)
    if correct is not None:
        table.add_column("right", no_wrap=True)

    def right(answer: str) -> list[str]:
        return [] if correct is None else ["yes" if is_right(answer, correct) else "no"]

    # An answer is free text: Text keeps its brackets from being read as markup.
    table.add_row("full", "", "", "", Text(full), "", *right(full))
    for survivors in (survivors for line in grid for survivors in line):
        margin = "" if survivors.margin is None else f"{survivors.margin:.2f}"
        cells = (survivors.point.method, str(len(survivors.positions)), str(survivors.layer), survivors.gathers)
        table.add_row(*cells, Text(survivors.answer), margin, *right(survivors.answer))
    Console(width=None if Console().is_terminal else 160).print(table)
