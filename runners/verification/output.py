"""Runs the checks under a progress bar, and prints a report in 80 columns."""

import sys
import textwrap
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tokensel.data.protocol import Protocol
from tokensel.evaluation.sweep.groups import ModelSettings
from tokensel.evaluation.verify import verify
from tokensel.models import load_model

WIDTH = 80
LINE_SECONDS = 20.0
_QUESTION, _ANSWER = 38, 16


def verifying(settings: ModelSettings, kept: int | None) -> dict[str, Any]:
    """Loads the model and verifies it. Raises TokenselError for a model that cannot be loaded."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("loading the model", total=None)
        protocol = Protocol(conv=settings.conv, image_aspect=settings.image_aspect)
        loaded = load_model(**settings.load_arguments()).with_protocol(protocol)
        said = time.monotonic()

        def progress(what: str, share: float) -> None:
            nonlocal said
            bar.update(task, description=what, completed=share, total=1)
            if not console.is_terminal and time.monotonic() - said >= LINE_SECONDS:
                said = time.monotonic()
                print(f"{what}  {share:.0%}", file=sys.stderr, flush=True)

        return verify(loaded, kept, progress=progress)


def print_report(report: Mapping[str, Any]) -> None:
    """Prints the model, a line for each check with its figure and tolerance, what is wrong, and the answers."""
    model, prompt = report["model"], report["prompt"]
    print(f"{model['name']}: {model['model_type']}, {model['layers']} layers, {model['dtype']}, {model['attention']}")
    print(f"{report['device']}; {prompt['visual_tokens']} visual tokens, {prompt['kept']} kept")
    print()
    for check in report["checks"]:
        print(_line(check))
        for problem in check["problems"]:
            print(textwrap.fill(problem, WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 18))
    print()
    _print_answers(report)
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    print(f"FAILED: {', '.join(failed)}" if failed else f"All {len(report['checks'])} checks passed.")


def _line(check: Mapping[str, Any]) -> str:
    state = "ok" if check["passed"] else "FAIL"
    figure = "" if check["figure"] is None else f"{check['figure']:.1e}" if check["figure"] else "0"
    allowed = f" <= {check['tolerance']:.0e}" if check["tolerance"] else ""
    return f"{state:<5}{check['name']:<10} {check['text']:<45.45} {figure:>8}{allowed}".rstrip()


def _print_answers(report: Mapping[str, Any]) -> None:
    answers = report["answers"]
    print(f"{'question':<{_QUESTION}}{'right':<6}{'all tokens':<{_ANSWER}}{report['prompt']['kept']} kept")
    for each in answers:
        asked = _short(each["question"], _QUESTION)
        full, reduced = (_short(each[name], _ANSWER) for name in ("full", "reduced"))
        print(f"{asked:<{_QUESTION}}{each['correct']:<6}{full:<{_ANSWER}}{reduced}".rstrip())
    print(f"The same answer to {report['same_answers']} of {len(answers)} questions.")


def _short(text: str, width: int) -> str:
    """The beginning of a text in one line, shorter than `width`."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) < width else f"{line[: width - 4]}..."
