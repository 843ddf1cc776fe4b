"""Fills in what grid points lack: predictions in one pass, then times and costs, then metrics.json."""

import json
import logging
import sys
import traceback
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from tokensel.data import Question
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.digests import ids_digest
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.provenance import provenance
from tokensel.evaluation.sweep.costs import costed_prompt, middle_question
from tokensel.evaluation.sweep.plan import SweepPlan
from tokensel.evaluation.sweep.work import GroupWork, PointWork, timed_as
from tokensel.methods import Method, find_method
from tokensel.models import LoadedModel, load_model

# So many of the first questions have their kept tokens stored at every point, to be drawn.
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


@lru_cache(maxsize=1)  # groups of one model share it
def _model(arguments: str) -> LoadedModel:
    return load_model(**json.loads(arguments))


def compute(work: GroupWork, plan: SweepPlan, progress: Progress) -> None:
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
    _log.info("loading %s", work.group.model.path)
    progress.doing("loading the model")
    arguments = json.dumps(work.group.model.load_arguments(), sort_keys=True)
    loaded = _model(arguments).with_protocol(work.group.protocol)
    for point in points:
        point.store.write_config(point.settings)
        point.store.done_ids()  # removes a half-written line that a killed process left, also where nothing is missing
    # One pass for each set of questions. All points of a grid usually have the same one.
    for digest in dict.fromkeys(ids_digest(point.questions) for point in points):
        _predict(loaded, [point for point in points if ids_digest(point.questions) == digest], work, plan, progress)
    progress.doing("timing" if plan.settings.latency.repeats else "counting costs")
    meter = _Meter(loaded, plan, work.questions)
    for begin in range(0, len(points), TIMED_TOGETHER):
        together = points[begin : begin + TIMED_TOGETHER]
        times = meter.times([point for point in together if point.lacks_times and not point.error], progress)
        for point in together:
            if not point.error:
                try:
                    _write_metrics(point, meter, plan, times.get(point.key))
                except Exception as error:  # some points fail only now: at batch 1, or with a cache
                    _fail(point, error)
            progress.finished_point(point.lacks_times)
            if not point.error:
                _log.info("finished %s kept=%s (%s)", point.point.method, point.point.kept, point.key)


def describe(error: Exception, method: type[Method] | None = None) -> str:
    """One line: the error's type, the first line of its message, and where in the file of a user's method it arose."""
    lines = str(error).splitlines()
    described = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    ours = method is None or method.__module__.startswith("tokensel.")
    file = None if ours or method is None else sys.modules[method.__module__].__file__
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{described} ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else described


def _fail(point: PointWork, error: Exception) -> None:
    point.fail(describe(error, find_method(point.point.method)))
    _log.error("failed %s kept=%s (%s)", point.point.method, point.point.kept, point.key, exc_info=error)


def _predict(
    loaded: LoadedModel, points: list[PointWork], work: GroupWork, plan: SweepPlan, progress: Progress
) -> None:
    """Predicts what these points lack, in one pass over their questions."""
    points = [point for point in points if point.missing]
    if not points:
        return
    settings, questions = plan.settings, points[0].questions
    _log.info("predicting %d questions at %d points", len(questions), len(points))
    progress.doing("answering")
    with warnings.catch_warnings():
        # The sweep has noted this already, before the model was loaded.
        warnings.filterwarnings("ignore", message="kept=.*nothing is removed")
        failures = evaluate(
            loaded,
            questions,
            [point.point for point in points],
            [point.store for point in points],
            batch_size=settings.batch_size,
            scoring=work.group.scoring,
            on_bad_sample=settings.on_bad_sample,
            progress=progress.predicted,
            keep_positions={question.id for question in questions[:POSITION_SAMPLE]},
            compiled=settings.compile,
            check_ties=settings.check_ties,
        )
    for index, error in failures.items():
        _fail(points[index], error)


class _Meter:
    """Times and costs of one prompt of middling length, the same for all points."""

    def __init__(self, loaded: LoadedModel, plan: SweepPlan, questions: list[Question]) -> None:
        self.loaded = loaded
        question = middle_question(loaded, questions)
        self.meter: LatencyMeter | None = None
        self.prompt = costed_prompt(loaded, question)
        if question is None:
            return
        if plan.settings.latency.repeats:
            self.meter = LatencyMeter(loaded, question, **plan.settings.latency_protocol())

    @property
    def not_compiled(self) -> dict[str, str]:
        """What compile=true could not compile, and why."""
        return {} if self.meter is None else self.meter.not_compiled

    def times(self, points: list[PointWork], progress: Progress) -> dict[str, dict[str, Any] | Exception]:
        """For each point, by key: its times, or what it raised. Empty if no times are wanted."""
        if self.meter is None or not points:
            return {}
        _log.info("timing %d points", len(points))
        found = self.meter.measure_together([point.point for point in points], progress.timed)
        return dict(zip((point.key for point in points), found, strict=True))


def _write_metrics(point: PointWork, meter: _Meter, plan: SweepPlan, times: dict[str, Any] | Exception | None) -> None:
    """Writes metrics.json. times: new ones, or what was raised while they were taken. None: the stored ones stay."""
    if isinstance(times, Exception):
        raise times
    old = point.metrics or {}
    timing = timed_as(old)
    figures = point.figures(point.questions) | {name: old.get(name) for name in TIMES}
    if point.lacks_times:
        timing = plan.settings.latency_protocol()
        figures |= times or {}
    protocol = {
        "scoring": point.settings["scoring"],
        **point.settings["protocol"],
        "batch_size": plan.settings.batch_size,
        "compile": plan.settings.compile,
        "not_compiled": meter.not_compiled,
        "latency": timing,
        "text_tokens": meter.prompt.text_tokens,
        "visual_tokens": meter.prompt.visual_tokens,
    }
    point.finish(
        {
            "key": point.key,
            **point.settings,
            **figures,
            **meter.prompt.figures(point.point, point.predictions(point.questions)),
            "budgets": point.known_budgets,
            "questions": ids_digest(point.questions),
            "provenance": provenance(meter.loaded, protocol),
        }
    )
