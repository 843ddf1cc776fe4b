"""Answers questions and takes times by workers; the driver, this process, loads no weights."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import tokensel
from tokensel.data import Question
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.accuracy import Ledger
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.failure import Failure
from tokensel.evaluation.provenance import scrub
from tokensel.evaluation.sweep.compute import POSITION_SAMPLE, Progress
from tokensel.evaluation.sweep.costs import CostedPrompt, costed_prompt, middle_question
from tokensel.evaluation.sweep.plan import SweepPlan
from tokensel.evaluation.sweep.work import GroupWork, PointWork
from tokensel.evaluation.workers.crew import Crew, Died, Said
from tokensel.evaluation.workers.dispatch import Dispatch
from tokensel.evaluation.workers.spec import Hello, PassSpec, PointSpec, Refusal, Timed, TimingTask, batches_of
from tokensel.evaluation.workers.suspects import DEATHS
from tokensel.methods import find_method
from tokensel.methods.user import method_file
from tokensel.models.loading import checkpoint_revision
from tokensel.models.weightless import load_without_weights

_log = logging.getLogger(__name__)
_WAIT_SECONDS = 0.5


class ByWorkers:
    """A `tokensel.evaluation.sweep.compute.Computer` whose work others do.

    threads: of the worker that takes times, alone on its machine; None: those that it has.
    """

    def __init__(
        self, work: GroupWork, plan: SweepPlan, progress: Progress, crew: Crew, threads: int | None = None
    ) -> None:
        self.work, self.plan, self.progress, self.crew, self.threads = work, plan, progress, crew, threads
        self.hellos: dict[int, Hello] = {}
        self.devices: Counter[str] = Counter()
        self.not_compiled: dict[str, str] = {}

    def begin(self) -> None:
        group = self.work.group
        self.loaded = load_without_weights(**group.model.load_arguments()).with_protocol(group.protocol)

    def predict(self, points: list[PointWork], questions: list[Question], progress: Progress) -> dict[str, Failure]:
        progress.doing("starting the workers")
        spec = self._spec(points, len(questions))
        answers = Stored(points, spec.on_bad_sample, progress)
        batches = batches_of(questions, spec.batch_size)
        started = partial(progress.doing, "answering")
        self.hellos = Dispatch(self.crew, spec, batches, answers, _log.warning, started).run()
        self.devices.update(hello.device for hello in self.hellos.values())
        return answers.failures

    def _spec(self, points: Sequence[PointWork], count: int) -> PassSpec:
        settings, group = self.plan.settings, self.work.group
        model = group.model
        return PassSpec(
            model=model.load_arguments(),
            revision=checkpoint_revision(model.path),
            protocol=group.protocol,
            data=group.data.name,
            data_options=group.data.options,
            count=count,
            digest=questions_digest(self.work.questions),
            points=[
                PointSpec(each.key, each.point, each.settings["code"], method_file(find_method(each.point.method)))
                for each in points
            ],
            batch_size=settings.batch_size,
            scoring=group.scoring,
            on_bad_sample=settings.on_bad_sample,
            compiled=settings.compile,
            check_ties=settings.check_ties,
            positions=POSITION_SAMPLE,
            version=tokensel.__version__,
        )

    @cached_property
    def _question(self) -> Question | None:
        return middle_question(self.loaded, self.work.questions)

    @cached_property
    def prompt(self) -> CostedPrompt:
        return costed_prompt(self.loaded, self._question, self._device_type)

    def times(self, points: list[PointWork], progress: Progress) -> dict[str, dict[str, Any] | Failure]:
        if self._question is None:
            return {point.key: {} for point in points}
        spec = self._spec(points, max(len(point.questions) for point in points))
        devices = sorted(self.devices)
        if len(devices) > 1:
            _log.warning(
                "workers.latency=on: no times, as the workers' devices differ (%s); with workers of one kind, the same "
                "command adds them",
                ", ".join(devices),
            )
            return {}
        _log.info("timing %d points", len(points))
        for _ in range(DEATHS):
            worker = self._one_worker(spec)
            task = TimingTask(1, [point.key for point in points], self._question.id, self._latency, self.threads)
            self.crew.send(worker, task)
            timed = self._timed(worker, progress)
            if timed is not None:
                self.not_compiled = dict(timed.not_compiled)
                return timed.times | timed.failures
        raise TokenselError("workers.latency=on: the worker died while times were taken; see its log, or use off")

    @property
    def _latency(self) -> dict[str, Any]:
        return self.plan.settings.latency_protocol()

    def _one_worker(self, spec: PassSpec) -> int:
        """A worker that is alone and ready for the pass."""
        for other in list(self.hellos)[1:]:
            del self.hellos[other]
        self.crew.begin(spec, alone=next(iter(self.hellos), 0))
        while True:
            for event in self.crew.wait(_WAIT_SECONDS):
                if isinstance(event, Said) and isinstance(event.reply, Refusal):
                    raise TokenselError(event.reply.reason)
                if isinstance(event, Said) and isinstance(event.reply, Hello) and event.reply.spec == spec.name:
                    self.hellos = {event.worker: event.reply}
                    return event.worker

    def _timed(self, worker: int, progress: Progress) -> Timed | None:
        """The times that a worker has taken; None if it died."""
        done = 0.0
        while True:
            for event in self.crew.wait(_WAIT_SECONDS):
                if isinstance(event, Died):
                    return None
                if isinstance(event.reply, Timed):
                    progress.timed(event.reply.ticks - done)
                    done = event.reply.ticks
                    if event.reply.done:
                        return event.reply

    @property
    def _hello(self) -> Hello:
        """What a worker says of itself; one is started where an earlier start has answered everything."""
        if not self.hellos:
            self._one_worker(self._spec(self.work.open_points, 1))
        return next(iter(self.hellos.values()))

    @property
    def _device_type(self) -> str:
        return "cpu" if self._hello.device.startswith("cpu") else "cuda"

    def provenance(self, protocol: dict[str, Any]) -> dict[str, Any]:
        found = dict(self._hello.provenance)
        if self.threads is not None and (protocol.get("latency") or {}).get("repeats"):
            found["threads"] = self.threads
        command = scrub(" ".join(["python -m runners.sweep", *sys.argv[1:]]))
        return found | {"command": command, "protocol": protocol, "workers": self._workers}

    @property
    def _workers(self) -> dict[str, Any]:
        """What answered: which workers, and how many of them on each kind of device."""
        return {"name": self.plan.settings.workers.name, "devices": dict(self.devices)}


class Stored:
    """What a pass has stored and lacks, for `Dispatch`."""

    def __init__(self, points: Sequence[PointWork], on_bad_sample: str, progress: Progress) -> None:
        self.keys = [point.key for point in points]
        self.stores = [point.store for point in points]
        self.ledger = Ledger(self.stores, on_bad_sample, progress.predicted)
        self.progress = progress
        self.failures: dict[str, Failure] = {}

    def lacking(self, questions: Sequence[Question]) -> dict[str, list[str]]:
        lacking = {}
        for key, done in zip(self.keys, self.ledger.done, strict=True):
            ids = [question.id for question in questions if question.id not in done]
            if ids and key not in self.failures:
                lacking[key] = ids
        return lacking

    def store(self, lines: Mapping[str, Mapping[str, str]]) -> None:
        for index, key in enumerate(self.keys):
            done = self.ledger.done[index]
            new = {id: line for id, line in lines.get(key, {}).items() if id not in done}
            if new and key not in self.failures:
                self.stores[index].append_lines(new)
                self.progress.predicted(len(new))

    def store_bad(self, question: Question, error: BadSampleError) -> None:
        self.ledger.keep_bad(question, error)

    def fail(self, key: str, failure: Failure) -> None:
        self.failures.setdefault(key, failure)
        self.ledger.failures.setdefault(self.keys.index(key), RuntimeError(failure.described))


def _point_spec(point: PointWork) -> PointSpec:
    method = find_method(point.point.method)
    return PointSpec(point.key, point.point, point.settings["code"], method_file(method))
