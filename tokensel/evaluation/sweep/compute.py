"""Fills in what grid points lack: predictions in one pass, then times and costs, then metrics.json."""

import logging
from typing import Any, Protocol

from tokensel.data import Question
from tokensel.evaluation.digests import ids_digest
from tokensel.evaluation.failure import Failure, failure_of
from tokensel.evaluation.sweep.costs import CostedPrompt
from tokensel.evaluation.sweep.plan import SweepPlan
from tokensel.evaluation.sweep.work import GroupWork, PointWork, timed_as

# Of so many of the first questions, the kept tokens are stored at every point, to be drawn.
POSITION_SAMPLE = 8
# How many points share the runs of the full model; few, so that drift stays small.
TIMED_TOGETHER = 20
TIMES = (
    "select_ms",
    "vision_ms",
    "prefill_ms",
    "decode_ms",
    "total_ms",
    "speedup",
    "speedup_total",
    "peak_memory_bytes",
)

_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Called after every step while points are computed."""

    def doing(self, what: str) -> None:
        """From now on, this is done: "loading the model" and the like."""

    def predicted(self, count: int) -> None:
        """`count` more predictions are stored."""

    def timed(self, points: float) -> None:
        """The runs of so many more points are timed; a part of a point for each of its runs."""

    def finished_point(self, timed: bool) -> None:
        """A point has all its figures, or failed. timed: whether times were to be taken for it."""


class Computer(Protocol):
    """What answers questions and takes times for one group: this process, or workers."""

    def begin(self) -> None:
        """Called once, before anything is written. Raises TokenselError if the model cannot be loaded."""

    def predict(self, points: list[PointWork], questions: list[Question], progress: Progress) -> dict[str, Failure]:
        """Stores what these points lack, in one pass over the questions. Returns those that failed, by key."""

    def times(self, points: list[PointWork], progress: Progress) -> dict[str, dict[str, Any] | Failure]:
        """For each point, by key: its times, or why there are none. Empty if no times can be taken."""

    @property
    def prompt(self) -> CostedPrompt:
        """The prompt of middling length, on which points are timed and costs counted."""

    @property
    def not_compiled(self) -> dict[str, str]:
        """What compile=true could not compile, and why."""

    def provenance(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """See `tokensel.evaluation.provenance.provenance`."""


def compute(work: GroupWork, plan: SweepPlan, progress: Progress, computer: Computer) -> None:
    """Computes what a group lacks. A point that fails is marked with its error; the others are complete afterwards.

    Raises TokenselError if the model cannot be loaded, or for a bad sample under on_bad_sample=error.
    """
    points = []
    for point in work.open_points:
        if point.metrics is not None and not point.missing and not point.lacks_times:
            # Only the figures are missing, for another set of questions: that needs no model.
            figures = point.figures(point.questions) | {"questions": ids_digest(point.questions)}
            point.finish(point.metrics | figures | {"budgets": point.known_budgets})
            progress.finished_point(timed=False)
        else:
            points.append(point)
    if not points:
        return
    computer.begin()
    for point in points:
        point.store.write_config(point.settings)
        point.store.done_ids()  # removes a half-written line that a killed process left, also where nothing is missing
    # One pass for each set of questions. All points of a grid usually have the same one.
    for digest in dict.fromkeys(ids_digest(point.questions) for point in points):
        _predict([point for point in points if ids_digest(point.questions) == digest], computer, progress)
    progress.doing("timing" if plan.settings.latency_protocol()["repeats"] else "counting costs")
    for begin in range(0, len(points), TIMED_TOGETHER):
        together = points[begin : begin + TIMED_TOGETHER]
        timed = [point for point in together if point.lacks_times and not point.error]
        times = computer.times(timed, progress) if timed else {}
        for point in together:
            if not point.error:
                try:
                    _write_metrics(point, computer, plan, times.get(point.key))
                except Exception as error:  # some points fail only now: at batch 1, or with a cache
                    _fail(point, failure_of(error, point.point.method))
            progress.finished_point(point.lacks_times)
            if not point.error:
                _log.info("finished %s kept=%s (%s)", point.point.method, point.point.kept, point.key)


def _predict(points: list[PointWork], computer: Computer, progress: Progress) -> None:
    """Predicts what these points lack."""
    points = [point for point in points if point.missing]
    if not points:
        return
    _log.info("predicting %d questions at %d points", len(points[0].questions), len(points))
    failures = computer.predict(points, points[0].questions, progress)
    for point in points:
        if point.key in failures:
            _fail(point, failures[point.key])


def _fail(point: PointWork, failure: Failure) -> None:
    point.fail(failure.described)
    _log.error("failed %s kept=%s (%s)\n%s", point.point.method, point.point.kept, point.key, failure.trace)


def _write_metrics(
    point: PointWork, computer: Computer, plan: SweepPlan, times: dict[str, Any] | Failure | None
) -> None:
    """Writes metrics.json. times: new ones, or why there are none. None: the stored ones stay."""
    if isinstance(times, Failure):
        _fail(point, times)
        return
    old, prompt = point.metrics or {}, computer.prompt
    timing = timed_as(old)
    figures = point.figures(point.questions) | {name: old.get(name) for name in TIMES}
    if times is not None:
        timing = plan.settings.latency_protocol()
        figures |= times
    protocol = {
        "scoring": point.settings["scoring"],
        **point.settings["protocol"],
        "batch_size": plan.settings.batch_size,
        "compile": plan.settings.compile,
        "not_compiled": computer.not_compiled,
        "latency": timing,
        "text_tokens": prompt.text_tokens,
        "visual_tokens": prompt.visual_tokens,
    }
    if prompt.video_grid is not None:
        protocol["video_grid"] = list(prompt.video_grid)
    point.finish(
        {
            "key": point.key,
            **point.settings,
            **figures,
            **prompt.figures(point.point, point.predictions(point.questions)),
            "budgets": point.known_budgets,
            "questions": ids_digest(point.questions),
            "provenance": computer.provenance(protocol),
        }
    )
