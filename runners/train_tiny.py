"""Trains the embedded tiny LLaVA from scratch, and measures whether it sees.

The model is worth shipping only if it answers far better with the picture than without, and without it only at chance.
`--evaluate` prints both accuracies, for the embedded model or for any other folder.

    python -m runners.train_tiny --out /tmp/tiny            # hours on two cores, minutes on a GPU; continues if stopped
    python -m runners.train_tiny --evaluate                 # the embedded model, on 1200 questions of each data set
    python -m runners.train_tiny --evaluate --limit 0       # on all questions: half an hour on two cores

The figures are written beside the weights as figures.json. The last line of standard output is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tokensel.data import Question, load_questions
from tokensel.errors import TokenselError
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure a model instead of training one")
    parser.add_argument("--path", default="tiny", help="the model to evaluate: tiny (embedded), or a folder")
    parser.add_argument(
        "--limit", type=int, default=1200, help="questions of each data set to evaluate; 0: all (default: 1200)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny"), help="folder for the trained checkpoint")
    parser.add_argument("--work", type=Path, help="folder for the state of a stopped training (default: OUT-work)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--seed", type=int, default=TrainingSchedule.seed)
    parser.add_argument("--vision-steps", type=int, default=TrainingSchedule.vision_steps)
    parser.add_argument("--steps", type=int, default=TrainingSchedule.steps, help="steps of the language stage")
    parser.add_argument("--batch", type=int, default=TrainingSchedule.batch, help="pictures per language step")
    parser.add_argument("--compile", action="store_true", help="compile the decoder: a third faster per step")
    options = parser.parse_args(argv)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        path = options.path
        if not options.evaluate:
            schedule = replace(
                TrainingSchedule(),
                seed=options.seed,
                vision_steps=options.vision_steps,
                steps=options.steps,
                batch=options.batch,
                compiled=options.compile,
            )
            work = options.work or options.out.with_name(options.out.name + "-work")
            train(schedule, options.out, work, device)
            path = str(options.out)
        figures = measure(path, device, options.limit or None)
        if not options.evaluate:
            made = {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "device": device,
                "plan": vars(schedule),
            }
            (options.out / "figures.json").write_text(json.dumps(figures | {"made_with": made}, indent=1) + "\n")
    except TokenselError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
