"""Trains the embedded model, and measures whether a model sees."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tokensel.data import Question, load_questions
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.statistics import wilson_interval
from tokensel.evaluation.store import PointStore
from tokensel.models import load_model
from tokensel.training.schedule import TrainingSchedule
from tokensel.training.train import make_student, save_student, train_language, train_vision

LINE_SECONDS = 30.0


class _Log:
    """Prints running means of figures: beside a progress bar on a terminal, else one line every LINE_SECONDS."""

    def __init__(self, title: str, steps: int):
        self.title, self.steps = title, steps
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.printed_at = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        self.live = self.bar.console.is_terminal
        self.bar.disable = not self.live
        self.task = self.bar.add_task(title, total=steps)
        self.bar.start()

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.sums[name].append(value)
        self.bar.update(self.task, completed=step)
        if step == self.steps or time.monotonic() - self.printed_at >= LINE_SECONDS:
            self.printed_at = time.monotonic()
            means = " ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in sorted(self.sums.items()))
            self.bar.console.print(f"{self.title} {step}/{self.steps}: {means}", highlight=False, soft_wrap=True)
            self.sums.clear()
        if step == self.steps:
            self.bar.stop()


def train(schedule: TrainingSchedule, out: Path, work: Path, device: str) -> None:
    """Runs both stages and writes the checkpoint to `out`.

    work: the folder with the state from which a stopped training continues.
    """
    model, processor = make_student(schedule.seed)
    train_vision(model, schedule, work, device, _Log("vision", schedule.vision_steps))
    train_language(model, processor.tokenizer, schedule, work, device, _Log("language", schedule.steps))
    save_student(model, processor, out)
    print(f"wrote {out}", flush=True)


def measure(path: str, device: str, limit: int | None, batch_size: int = 16) -> dict:
    """Accuracy with letter scoring: {"diagrams": {full, no_image, chance, n, families}, "easy_vqa": {full, n, ...}}."""
    loaded = load_model(path, device=device)
    points = [GridPoint("full"), GridPoint("no_image", agg_layer=0)]
    figures: dict[str, dict] = {}
    for data in ("diagrams", "easy_vqa"):
        questions = load_questions(data, limit=limit)
        with tempfile.TemporaryDirectory() as folder:
            stores = [PointStore(Path(folder) / point.method) for point in points]
            log = _Log(data, len(questions) * len(points))
            done = 0

            def progress(count: int, log: _Log = log) -> None:
                nonlocal done
                done += count
                log(done, {})

            failed = evaluate(loaded, questions, points, stores, batch_size=batch_size, progress=progress)
            for error in failed.values():
                raise error
            full, no_image = ({record["id"]: record["correct"] for record in store.predictions()} for store in stores)
        figures[data] = _figures(questions, full, no_image)
    return figures


def _figures(questions: list[Question], full: dict[str, bool], no_image: dict[str, bool]) -> dict:
    families: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        families[question.family].append(question)

    def share(chosen: list[Question], correct: dict[str, bool]) -> float:
        return round(sum(correct[q.id] for q in chosen) / len(chosen), 4)

    low, high = wilson_interval(sum(full.values()), len(full))
    return {
        "full": share(questions, full),
        "ci": [round(low, 4), round(high, 4)],
        "no_image": share(questions, no_image),
        "chance": round(sum(1 / len(q.choices) for q in questions) / len(questions), 4),
        "n": len(questions),
        "families": {name: share(members, full) for name, members in families.items()},
    }
