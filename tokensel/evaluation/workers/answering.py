"""What a worker does: it loads what a pass needs, answers batches, and takes times."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import tokensel
from tokensel.data import Question, draw_order, load_questions
from tokensel.errors import TokenselError, first_line
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.failure import Failure, failure_of
from tokensel.evaluation.keys import code_digest
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.one_pass import Batch, Computed, OnePass
from tokensel.evaluation.provenance import provenance
from tokensel.evaluation.store import as_line
from tokensel.evaluation.workers.spec import (
    Answered,
    Hello,
    PassSpec,
    Refusal,
    Reply,
    Task,
    Timed,
    TimingTask,
    batches_of,
)
from tokensel.methods import find_method
from tokensel.models import LoadedModel, load_model


class Answering:
    """A worker. reply: called with each reply, from any thread, in no particular order."""

    def __init__(self, reply: Callable[[Reply], None]) -> None:
        self.reply = reply
        self.threads = torch.get_num_threads()
        self._preparing: ThreadPoolExecutor | None = None
        self._computing: ThreadPoolExecutor | None = None

    def take(self, message: PassSpec | Task | TimingTask) -> None:
        """Begins what the message asks for. Replies follow; a mistake in a pass's settings is one, too."""
        if isinstance(message, PassSpec):
            try:
                self.reply(self._begin(message))
            except Exception as error:
                self.reply(Refusal(_refusal(error)))
        elif isinstance(message, Task):
            assert self._preparing is not None
            assert self._computing is not None
            prepared = self._preparing.submit(self._prepare, message)
            self._computing.submit(self._answer, message, prepared)
        else:
            self._time(message)

    def close(self) -> None:
        """Waits for what was begun."""
        for pool in (self._preparing, self._computing):
            if pool is not None:
                pool.shutdown()

    def _begin(self, spec: PassSpec) -> Hello:
        self.close()
        _check_code(spec)
        questions = _questions(spec)
        self.spec, self.questions = spec, {question.id: question for question in questions}
        self.batches = batches_of(questions, spec.batch_size)
        self.loaded = _model(json.dumps(spec.model, sort_keys=True)).with_protocol(spec.protocol)
        if spec.revision is not None and self.loaded.revision not in (None, spec.revision):
            raise TokenselError(f"model.path={spec.model['path']}: other files than on the driver's machine")
        self.run = OnePass(
            self.loaded,
            [each.point for each in spec.points],
            scoring=spec.scoring,
            on_bad_sample=spec.on_bad_sample,
            keep_positions={question.id for question in questions[: spec.positions]},
            compiled=spec.compiled,
            check_ties=spec.check_ties,
            written=any(question.is_written for question in questions),
        )
        parallel = self.run.parallel
        # One batch is prepared while others are computed, as in a sweep of one process.
        self._preparing = ThreadPoolExecutor(1)
        limit = (lambda: torch.set_num_threads(max(1, self.threads // parallel))) if parallel > 1 else (lambda: None)
        self._computing = ThreadPoolExecutor(parallel, initializer=limit)
        about = provenance(self.loaded, {})
        return Hello(spec.name, parallel + 2, about["device"], about)

    def _prepare(self, task: Task) -> Any:
        lacking = [frozenset(task.lacking.get(each.key, ())) for each in self.spec.points]

        def lacks(questions: Sequence[Question]) -> list[int]:
            return [index for index, ids in enumerate(lacking) if any(question.id in ids for question in questions)]

        return self.run.prepare(Batch(self.batches[task.batch], lacks))

    def _answer(self, task: Task, prepared: Future[Any]) -> None:
        try:
            computed = self.run.compute(prepared.result())
        except Exception as error:  # not of one point: these are caught
            self.reply(Answered(task.number, failures=dict.fromkeys(task.lacking, failure_of(error))))
            return
        self.reply(self._answered(task, computed))

    def _answered(self, task: Task, computed: Computed) -> Answered:
        lines: dict[str, dict[str, str]] = {}
        for index, records in computed.results:
            key = self.spec.points[index].key
            wanted = frozenset(task.lacking[key])
            new = {record["id"]: as_line(record) for record in records if record["id"] in wanted}
            lines.setdefault(key, {}).update(new)
        failures = {
            self.spec.points[index].key: failure_of(error, self.spec.points[index].point.method)
            for index, error in computed.failures.items()
        }
        return Answered(task.number, lines, failures, {question.id: str(error) for question, error in computed.bad})

    def _time(self, task: TimingTask) -> None:
        points = {each.key: each.point for each in self.spec.points}
        before = torch.get_num_threads()
        done = 0.0

        def tick(points: float) -> None:
            nonlocal done
            done += points
            self.reply(Timed(task.number, False, done))

        times: dict[str, dict[str, Any]] = {}
        failures: dict[str, Failure] = {}
        not_compiled: dict[str, str] = {}
        try:
            torch.set_num_threads(task.threads or before)
            meter = LatencyMeter(self.loaded, self.questions[task.question], **task.latency)
            for key, found in zip(
                task.keys, meter.measure_together([points[key] for key in task.keys], tick), strict=True
            ):
                if isinstance(found, Exception):
                    failures[key] = failure_of(found, points[key].method)
                else:
                    times[key] = found
            not_compiled = meter.not_compiled
        except Exception as error:
            failures = dict.fromkeys(task.keys, failure_of(error))
        finally:
            torch.set_num_threads(before)
        self.reply(Timed(task.number, True, done, times, failures, not_compiled))


def _check_code(spec: PassSpec) -> None:
    """Raises TokenselError unless this worker has the driver's code, which the predictions' keys promise."""
    if spec.version != tokensel.__version__:
        raise TokenselError(f"workers: a worker has tokensel {tokensel.__version__}, the driver {spec.version}")
    for each in spec.points:
        find_method(each.file or each.point.method)
        if code_digest(each.point.method, spec.data) != each.code:
            raise TokenselError(
                f"workers: a worker has other code of method {each.point.method} than the driver; update its tokensel"
            )


@lru_cache(maxsize=1)  # passes of one model share it
def _model(arguments: str) -> LoadedModel:
    return load_model(**json.loads(arguments))


def _questions(spec: PassSpec) -> list[Question]:
    questions = sorted(load_questions(spec.data, **spec.data_options), key=draw_order)
    if questions_digest(questions) != spec.digest:
        raise TokenselError(f"data={spec.data}: a worker sees other questions than the driver")
    return questions[: spec.count]


def _refusal(error: Exception) -> str:
    return str(error) if isinstance(error, TokenselError) else f"{type(error).__name__}: {first_line(error)}"


def write_log(path: Path) -> None:
    """From now on, what this process and its libraries print goes to a file, if its folder can be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
