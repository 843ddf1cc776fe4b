"""Answers questions and takes times in this process."""

import json
import logging
import warnings
from functools import cached_property, lru_cache
from typing import Any

from tokensel.data import Question
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.failure import Failure, failure_of
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.provenance import provenance
from tokensel.evaluation.sweep.compute import POSITION_SAMPLE, Progress
from tokensel.evaluation.sweep.costs import CostedPrompt, costed_prompt, middle_question
from tokensel.evaluation.sweep.plan import SweepPlan
from tokensel.evaluation.sweep.work import GroupWork, PointWork
from tokensel.models import LoadedModel, load_model

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)  # groups of one model share it
def _model(arguments: str) -> LoadedModel:
    return load_model(**json.loads(arguments))


class Here:
    """A `tokensel.evaluation.sweep.compute.Computer` that holds the model itself."""

    def __init__(self, work: GroupWork, plan: SweepPlan, progress: Progress) -> None:
        self.work, self.plan, self.progress = work, plan, progress

    def begin(self) -> None:
        _log.info("loading %s", self.work.group.model.path)
        self.progress.doing("loading the model")
        arguments = json.dumps(self.work.group.model.load_arguments(), sort_keys=True)
        self.loaded = _model(arguments).with_protocol(self.work.group.protocol)

    def predict(self, points: list[PointWork], questions: list[Question], progress: Progress) -> dict[str, Failure]:
        settings, loaded = self.plan.settings, self.loaded
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
                scoring=self.work.group.scoring,
                on_bad_sample=settings.on_bad_sample,
                progress=progress.predicted,
                keep_positions={question.id for question in questions[:POSITION_SAMPLE]},
                compiled=settings.compile,
                check_ties=settings.check_ties,
            )
        return {points[index].key: failure_of(error, points[index].point.method) for index, error in failures.items()}

    @cached_property
    def _question(self) -> Question | None:
        return middle_question(self.loaded, self.work.questions)

    @cached_property
    def prompt(self) -> CostedPrompt:
        return costed_prompt(self.loaded, self._question)

    @cached_property
    def _meter(self) -> LatencyMeter | None:
        latency = self.plan.settings.latency_protocol()
        if self._question is None or not latency["repeats"]:
            return None
        return LatencyMeter(self.loaded, self._question, **latency)

    @property
    def not_compiled(self) -> dict[str, str]:
        return {} if self._meter is None else self._meter.not_compiled

    def times(self, points: list[PointWork], progress: Progress) -> dict[str, dict[str, Any] | Failure]:
        if self._meter is None:
            return {point.key: {} for point in points}
        _log.info("timing %d points", len(points))
        found = self._meter.measure_together([point.point for point in points], progress.timed)
        return {
            point.key: failure_of(times, point.point.method) if isinstance(times, Exception) else times
            for point, times in zip(points, found, strict=True)
        }

    def provenance(self, protocol: dict[str, Any]) -> dict[str, Any]:
        return provenance(self.loaded, protocol)
