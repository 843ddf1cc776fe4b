"""The runs of points while they are computed: accuracy so far, questions per second and GPU figures as history.

A thread of its own starts the runs and reads what the points' folders hold, so that W&B never delays a sweep. Its first
failure ends it, and is kept for the one note that `log_sweep` prints.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from runners.wandb_logging.content import Point
from runners.wandb_logging.destination import Destination
from runners.wandb_logging.runs import Run, point_run
from runners.wandb_logging.starting import RUN_SECONDS, environment_for, start_run
from runners.wandb_logging.trial import current_trial
from tokensel.evaluation.marking import share_of
from tokensel.evaluation.provenance import environment, scrub
from tokensel.evaluation.sweep.plan import SweepPlan
from tokensel.evaluation.sweep.work import GroupWork
from tokensel.models.loading import find_device

LOG_SECONDS = 10.0
END_SECONDS = 30.0  # for which the end of a sweep waits for this thread
INTERRUPTED_SECONDS = 5.0  # the same for a sweep that is interrupted
MAX_LIVE = 100  # points beyond these have a run when the sweep ends
PREFIX = "progress/"


class LiveRuns:
    """Starts a run for each open point and logs its progress, from `with` on until the block ends.

    points    those that lack something; every: these and the complete ones; folder, name: the sweep's
    options   as in conf/logger
    known     what is known of a point's provenance before it is computed, by key

    started   the W&B runs by the points' keys; they stay open for `log_sweep`, unless the block ends with an exception
    error     what W&B raised first, or None
    """

    def __init__(
        self,
        points: Sequence[Point],
        every: Sequence[Point],
        folder: Path,
        options: dict[str, Any],
        name: str,
        known: Mapping[str, dict[str, Any]],
    ) -> None:
        self.points, self.every, self.folder = points, every, folder
        self.options, self.name, self.known = options, name, known
        self.started: dict[str, Any] = {}
        self.progress = {point.key: Progress(point) for point in points}
        self.error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="W&B", daemon=True)

    def __enter__(self) -> "LiveRuns":
        if self.points:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            seconds = END_SECONDS if error is None else INTERRUPTED_SECONDS
            self._thread.join(seconds)
            if self._thread.is_alive():
                self.error = self.error or TimeoutError(f"not done after {seconds:.0f} s")
        if error is not None:
            self.fail_the_rest()

    def _work(self) -> None:
        try:
            self._log()
        except Exception as error:  # W&B may raise anything, and no failure of it may stop a sweep
            self.error = error

    def _log(self) -> None:
        import wandb

        trial = current_trial()
        destination = Destination.from_options(self.options, trial)
        if destination.mode == "disabled":
            return
        points = self.points[:MAX_LIVE]
        if trial:
            own = trial.find_own(self.every)
            points = [point for point in self.points if point is own]
        with environment_for(self.folder):
            for point in points:
                if self._ended.is_set():
                    break
                run = point_run(point, destination, self.name, trial.run if trial else None)
                self.started[point.key] = _start(wandb, run, self.folder, destination, self.known.get(point.key, {}))
            while not self._ended.wait(LOG_SECONDS):
                for key, started in self.started.items():
                    if figures := self.progress[key].read():
                        started.log(figures)

    def take(self, key: str) -> tuple[Any, dict[str, Any]]:
        """The W&B run of a point, which the caller finishes, and what was not logged yet of its progress."""
        progress = self.progress.get(key)
        return self.started.pop(key, None), progress.read() if progress else {}

    def fail_the_rest(self) -> None:
        """Marks open runs as failed: those of points that failed, or all of an interrupted sweep. The next start
        resumes them."""
        began = time.monotonic()
        errors = {point.key: point.error for point in self.points}
        while self.started and not self._thread.is_alive() and time.monotonic() - began < RUN_SECONDS:
            key, run = self.started.popitem()
            try:
                run.summary["error"] = scrub(errors[key] or "interrupted")
                run.finish(exit_code=1)
            except Exception as error:  # as above
                self.error = self.error or error
                return


def runs_of(plan: SweepPlan, works: Sequence[GroupWork], folder: Path) -> LiveRuns:
    """The runs of a sweep's open points, with what is known of their provenance before a model is loaded."""
    known: dict[str, dict[str, Any]] = {}
    for work in works:
        about = environment(find_device(work.group.model.device or "auto")) | {"batch_size": plan.settings.batch_size}
        known |= {point.key: about for point in work.open_points}
    every = [point for work in works for point in work.points.values()]
    points = [point for point in every if point.key in known]
    return LiveRuns(points, every, folder, plan.settings.logger.options, str(plan.settings.name), known)


def _start(wandb: Any, run: Run, folder: Path, destination: Destination, known: dict[str, Any]) -> Any:
    started = start_run(wandb, run, folder, destination, resume="allow")
    started.config.update(known, allow_val_change=True)
    started.define_metric(f"{PREFIX}questions")
    started.define_metric(f"{PREFIX}*", step_metric=f"{PREFIX}questions")
    return started


class Progress:
    """What a point's folder gained since the last look."""

    def __init__(self, point: Point) -> None:
        self.file = point.store.folder / "predictions.jsonl"
        self.asked = {question.id for question in point.questions}
        self.place = self.answered = self.before = 0
        self.correct = 0.0
        self.began = time.monotonic()
        self.read()  # what an earlier start has answered
        self.before = self.answered

    def read(self) -> dict[str, Any]:
        """The figures to log; empty if nothing was answered since the last look."""
        try:
            with self.file.open("rb") as opened:
                opened.seek(self.place)
                lines = opened.read().split(b"\n")
        except OSError:
            return {}
        answered = self.answered
        for line in lines[:-1]:  # the last one is empty, or not yet written to its end
            self.place += len(line) + 1
            self._count(line)
        if self.answered == answered:
            return {}
        figures: dict[str, Any] = {"questions": self.answered, "accuracy": self.correct / self.answered}
        figures["questions_per_second"] = (self.answered - self.before) / max(time.monotonic() - self.began, 1e-9)
        return {PREFIX + name: value for name, value in (figures | gpu_figures()).items()}

    def _count(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except ValueError:  # of a process that was killed
            return
        if record.get("id") in self.asked and not record.get("skipped"):
            self.answered += 1
            self.correct += share_of(record) or 0


def gpu_figures() -> dict[str, float]:
    """Memory in MiB that torch has allocated on the current GPU, at most and now, and the GPU's load in percent."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    figures = {
        "gpu_memory_mib": torch.cuda.memory_allocated() / 2**20,
        "gpu_peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
    }
    with suppress(Exception):  # without NVIDIA's management library, or for a GPU that does not say
        figures["gpu_percent"] = float(torch.cuda.utilization())
    return figures
