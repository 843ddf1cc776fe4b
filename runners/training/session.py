"""One training of an aggregator, from the questions to the files, under a progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runners.terminal.arguments import write_whole
from runners.terminal.columns import Column, print_columns
from runners.training.aggregator import CHECKPOINT, Trained, train_aggregator, write_aggregator
from runners.training.curve import draw_curve
from runners.training.lessons import make_lessons
from runners.training.request import Request
from tokensel.data import Question, draw_order, load_questions, stable_hash
from tokensel.data.protocol import Protocol
from tokensel.errors import TokenselError
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.provenance import environment
from tokensel.evaluation.sweep.groups import ModelSettings
from tokensel.models import LoadedModel, load_model
from tokensel.models.parts import find_parts
from tokensel.training.matching import TrainingState

#: From how a training is made, what logs the records of its looks while the block lasts.
Tracking = Callable[[Mapping[str, Any]], AbstractContextManager[Callable[[Mapping[str, Any]], None]]]
LOG, CURVE = "log.json", "curve.png"
_LINE_SECONDS = 30.0
# Of the pictures, where there is no validation split.
_SET_ASIDE = 10


def run_training(request: Request, settings: ModelSettings, tracking: Tracking) -> dict[str, Any]:
    """Trains and writes the files. Returns the figures. tracking: logs the looks at the validation questions.

    Raises TokenselError for a mistake in the settings or the data.
    """
    with _Bar() as bar:
        questions, validation = read_questions(request)
        bar.doing("loading the model")
        protocol = Protocol(conv=settings.conv, image_aspect=settings.image_aspect)
        loaded = load_model(**settings.load_arguments()).with_protocol(protocol)
        trained = Trained(find_parts(loaded.model), request.points, request.plan)
        _check(trained)
        if request.fresh:
            (request.folder / CHECKPOINT).unlink(missing_ok=True)
        began = time.monotonic()
        lessons = []
        layer = request.plan.hidden_layer if request.plan.hidden_weight else None
        for what, asked in (("training", questions), ("validation", validation)):
            bar.doing(f"the full model on {len(asked)} {what} questions", len(asked))
            lessons.append(make_lessons(loaded, asked, request.points, request.plan.batch_size, layer, bar.more))
        prepared = time.monotonic()
        bar.doing("training", request.plan.steps)
        made = _made(request, loaded, questions, validation)
        with tracking(made) as log:

            def report(state: TrainingState, loss: float) -> None:
                bar.step(state, loss)
                if state.log[-1]["step"] == state.step:
                    log(state.log[-1])

            identity = {name: made[name] for name in ("model", "points", "questions", "validation_questions")}
            state = train_aggregator(trained, lessons[0], lessons[1], request.folder, identity, report)
        seconds = {"full_model": prepared - began, "training": time.monotonic() - prepared}
    record = _record(request, state, made, {name: round(each, 1) for name, each in seconds.items()}, loaded)
    write_aggregator(trained, state, request.folder, made | {"validation": record["after"], "before": record["before"]})
    write_whole(request.folder / LOG, (json.dumps(record, indent=1) + "\n").encode(), "output_dir")
    draw_curve(record, request.folder / CURVE)
    return record


def read_questions(request: Request) -> tuple[list[Question], list[Question]]:
    """The questions to train on, and those for validation. Raises TokenselError where they share a picture."""
    train, validation = request.splits
    if train is None:
        every = load_questions(request.data, **request.options)
        aside = [int(stable_hash("validation", each.image_id or each.id), 16) % _SET_ASIDE == 0 for each in every]
        found = [[each for each, out in zip(every, aside, strict=True) if out == wanted] for wanted in (False, True)]
        parts = [_first(each, limit) for each, limit in zip(found, request.limits, strict=True)]
    else:
        parts = []
        for key, split, limit in zip(("train_split", "validation_split"), request.splits, request.limits, strict=True):
            try:
                parts.append(load_questions(request.data, limit=limit, split=split, **request.options))
            except TokenselError as error:
                if not str(error).startswith("data.split"):
                    raise
                rest = str(error).removeprefix("data.split").removeprefix(f"={split}")
                raise TokenselError(f"{key}={split}{rest}; or null for both splits") from error
    if not all(parts):
        raise TokenselError(f"data={request.data}: has too few questions to set some aside for validation")
    shared = {each.image_id for each in parts[0] if each.image_id} & {each.image_id for each in parts[1]}
    if shared:
        raise TokenselError(
            f"validation_split={validation}: {len(shared)} of its pictures are among those of train_split={train}"
        )
    return parts[0], parts[1]


def _first(questions: list[Question], limit: int | None) -> list[Question]:
    return sorted(questions, key=draw_order)[:limit]


def _check(trained: Trained) -> None:
    """Refuses settings that do not fit the model, before the questions are run."""
    trained.new_aggregator()
    layers, plan = trained.parts.num_layers, trained.plan
    for each in trained.stages(None):
        if not each[0].acts(layers):
            raise TokenselError(f"agg_layer={each[0].layer}: must be from 0 to {layers - 1}, a layer of the model's")
    if plan.hidden_weight and (plan.hidden_layer or 0) > layers:
        raise TokenselError(f"hidden_layer={plan.hidden_layer}: must be at most {layers}, the model's number of layers")
    if trained.parts.head is None:
        raise TokenselError("model: has no language-model head, whose distribution is matched")


def _made(
    request: Request, loaded: LoadedModel, questions: Sequence[Question], validation: Sequence[Question]
) -> dict[str, Any]:
    """How the file was made, for its metadata: the same for the same training."""
    points = [point.settings(loaded.model.config) for point in request.points]
    versions = environment(loaded.device)["versions"]
    return {
        "command": request.command,
        "model": {"name": loaded.name, "revision": loaded.revision},
        "points": points,
        "questions": {"count": len(questions), "digest": questions_digest(questions)},
        "validation_questions": {"count": len(validation), "digest": questions_digest(validation)},
        "versions": {name: versions.get(name) for name in ("tokensel", "torch", "transformers")},
    }


def _record(
    request: Request, state: TrainingState, made: Mapping[str, Any], seconds: dict[str, float], loaded: LoadedModel
) -> dict[str, Any]:
    best = next(each for each in state.log if each["step"] == state.best_step)
    return {
        "output": str(request.folder / "aggregator.safetensors"),
        "command": made["command"],
        "steps": state.step,
        "best_step": state.best_step,
        "before": state.log[0],
        "after": best,
        "questions": made["questions"]["count"],
        "validation_questions": made["validation_questions"]["count"],
        "seconds": seconds,
        "device": str(loaded.device),
        "log": state.log,
    }


def print_summary(record: Mapping[str, Any]) -> None:
    """Prints what the validation questions say before and after, and where the files are."""
    kept = [name.removeprefix("loss@") for name in record["before"] if name.startswith("loss@")]
    lines = [(each, when) for each in kept for when in ("before", "after")]

    def cells(name: str, form: str, scale: float = 1.0) -> list[str]:
        values = [record[when].get(f"{name}@{each}") for each, when in lines]
        return ["" if value is None else format(scale * value, form) for value in values]

    columns = [
        Column("kept", "kept", [each for each, _ in lines]),
        Column(
            "aggregation", "aggregation", ["cross_attention" if when == "before" else "learned" for _, when in lines]
        ),
        Column("loss", "KL to the full model", cells("loss", ".4f")),
        Column("like full", "like full %", cells("like_full", ".1f", 100)),
        Column("accuracy", "accuracy %", cells("accuracy", ".1f", 100)),
    ]
    asked, seconds = record["validation_questions"], record["seconds"]
    print(f"On {asked} validation questions, after {record['best_step']} of {record['steps']} steps:")
    print_columns(columns, Console())
    print(f"{seconds['full_model']:.0f} s for the full model's answers, {seconds['training']:.0f} s for the training")
    print(f"Files: {record['output']}, {LOG}, {CURVE}")


class _Bar:
    """A progress bar on a terminal's standard error, else a line now and then."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self.live, self.said, self.done, self.total = console.is_terminal, time.monotonic(), 0, 0
        self.what = "loading libraries"
        self.task = self.bar.add_task(self.what, total=None)

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def doing(self, what: str, total: int | None = None) -> None:
        self.what, self.done, self.total = what, 0, total or 0
        self.bar.reset(self.task, description=what, total=total)

    def more(self, count: int) -> None:
        self.done += count
        self._show("")

    def step(self, state: TrainingState, loss: float) -> None:
        self.done = state.step
        self._show(f"loss {loss:.3f}, validation {state.best_loss:.4f}")

    def _show(self, figures: str) -> None:
        line = f"{self.what}: {figures}" if figures else self.what
        self.bar.update(self.task, completed=self.done, description=line)
        if not self.live and time.monotonic() - self.said >= _LINE_SECONDS:
            self.said = time.monotonic()
            print(f"{line}  {self.done}/{self.total}", file=sys.stderr, flush=True)
