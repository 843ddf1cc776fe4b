"""The driver of a pass: hands batches to workers, and stores their answers in the order of the batches.

Files are then those of a sweep of one process, byte for byte. The batches that are out wait for the oldest one at most,
so memory is bounded and a driver that is killed loses little.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from tokensel.data import Question
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.failure import Failure
from tokensel.evaluation.workers.crew import Crew, Died, Event
from tokensel.evaluation.workers.spec import Answered, Hello, PassSpec, Refusal, Task
from tokensel.evaluation.workers.suspects import DEATHS, Inquest

# Answers are stored this often: a start of a write costs as much as a hundred answers.
FLUSH_SECONDS = 0.5
# Batches that may be answered before the oldest open one is, for each task that is out.
AHEAD = 4

_log = logging.getLogger(__name__)


class Answers(Protocol):
    """What is stored. All keys are those of points."""

    def lacking(self, questions: Sequence[Question]) -> dict[str, list[str]]:
        """The ids of these questions that points lack, by the point's key; without points that have failed."""

    def store(self, lines: Mapping[str, Mapping[str, str]]) -> None:
        """Appends lines of predictions.jsonl, by key and question id."""

    def store_bad(self, question: Question, error: BadSampleError) -> None:
        """Stores a question that cannot be asked as skipped, or raises the error."""

    def fail(self, key: str, failure: Failure) -> None:
        """A point has failed, and lacks nothing any more."""


@dataclass(eq=False)
class _Job:
    """A batch that is wanted.

    deaths: of workers that had it. inquest: searches for what in it kills them. acquitted: an inquest found nothing, so
    the workers may have died of something else. copied: a second worker has it, too. done: it is answered.
    """

    batch: int
    deaths: int = 0
    inquest: Inquest | None = None
    acquitted: bool = False
    copied: bool = False
    done: bool = False

    @property
    def alone(self) -> bool:
        """Whether no other task may be on its worker, so that a death is this one's."""
        return self.deaths >= DEATHS


@dataclass
class _Worker:
    """hello: its last. jobs: what it has not answered, by the task's number."""

    hello: Hello
    jobs: dict[int, _Job] = field(default_factory=dict)

    def takes(self, job: _Job) -> bool:
        alone = job.alone or any(each.alone for each in self.jobs.values())
        return not self.jobs if alone else len(self.jobs) < self.hello.depth


class Dispatch:
    """Answers all batches of a pass.

    note: called with one line about whatever a user should know. started: called when the first worker is ready.
    """

    def __init__(
        self,
        crew: Crew,
        spec: PassSpec,
        batches: Sequence[Sequence[Question]],
        answers: Answers,
        note: Callable[[str], None] = lambda text: None,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self.crew, self.spec, self.batches, self.answers = crew, spec, batches, answers
        self.note, self.started = note, started
        self.leftovers = crew.leftovers()
        self.workers: dict[int, _Worker] = {}
        # Batches that lack something, in order. Those before `stored` are stored; answered ones wait for their turn.
        self.open = [number for number, batch in enumerate(batches) if answers.lacking(batch)]
        self.stored, self.begun = 0, 0
        self.answered: dict[int, Answered] = {}
        self.again: list[_Job] = []
        self.tasks = count(1)
        self.flushed = time.monotonic()

    def run(self) -> dict[int, Hello]:
        """Returns when every batch is answered and stored: the workers that are there, with their last Hello.

        Raises BadSampleError under on_bad_sample=error, and TokenselError if workers refuse to work or cannot live.
        """
        if self.open:
            self.crew.begin(self.spec)
        try:
            while self.stored < len(self.open):
                self._assign()
                for event in self.crew.wait(FLUSH_SECONDS):
                    self._heard(event)
                if time.monotonic() - self.flushed >= FLUSH_SECONDS or self._ended or self.begun >= self._limit:
                    self._store()
        except BaseException:
            with suppress(TokenselError):
                self._store()
            raise
        return {name: worker.hello for name, worker in self.workers.items()}

    @property
    def _ended(self) -> bool:
        return self.stored + len(self.answered) >= len(self.open)

    @property
    def _limit(self) -> int:
        """How many of the open batches may have begun."""
        return self.stored + AHEAD * sum(worker.hello.depth for worker in self.workers.values())

    def _assign(self) -> None:
        """Gives work to whoever is free: what must be done again first, then the next batches."""
        limit = self._limit
        # One task for each in turn, so that all are busy where little is left.
        while sum(self._give(name, worker, limit) for name, worker in list(self.workers.items())):
            pass

    def _give(self, name: int, worker: _Worker, limit: int) -> bool:
        """Gives a worker one task, of a batch before the limit. Returns whether there was one that it takes."""
        job = next((each for each in self.again if worker.takes(each)), None)
        if job is not None:
            self.again.remove(job)
        elif self.begun < min(len(self.open), limit) and worker.takes(_Job(-1)):
            job = _Job(self.open[self.begun])
            self.begun += 1
        elif not worker.jobs and (job := self._waiting_elsewhere()) is not None:
            job.copied = True
        if job is not None:
            self._send(name, worker, job)
        return job is not None

    def _waiting_elsewhere(self) -> _Job | None:
        """Where all batches are given out, one that still waits behind others on its worker, to be answered by whoever
        is first."""
        waiting = [list(worker.jobs.values())[-1] for worker in self._by_load if len(worker.jobs) > 1]
        return next((job for job in waiting if not job.copied and not job.alone), None)

    @property
    def _by_load(self) -> list[_Worker]:
        return sorted(self.workers.values(), key=lambda worker: -len(worker.jobs))

    def _send(self, name: int, worker: _Worker, job: _Job) -> None:
        lacking = self.answers.lacking(self.batches[job.batch])
        if job.inquest is not None:
            lacking = job.inquest.restricted(lacking)
        number = next(self.tasks)
        left = None if job.inquest is not None else self._left(lacking)
        if left is not None:
            self._finish(job, Answered(number, left))
            return
        worker.jobs[number] = job
        self.crew.send(name, Task(number, job.batch, lacking))

    def _left(self, lacking: dict[str, list[str]]) -> dict[str, dict[str, str]] | None:
        """All that is lacking, if workers of earlier starts have left it, or all these points have failed meanwhile."""
        if any(id not in self.leftovers.get(key, {}) for key, ids in lacking.items() for id in ids):
            return None
        return {key: {id: self.leftovers[key][id] for id in ids} for key, ids in lacking.items()}

    def _heard(self, event: Event) -> None:
        if isinstance(event, Died):
            self._died(event)
        elif isinstance(event.reply, Hello):
            if event.reply.spec == self.spec.name:
                _log.info("worker %d is ready on %s", event.worker, event.reply.device)
                self.started()
                self._died(Died(event.worker, "it was started again"))
                self.workers[event.worker] = _Worker(event.reply)
        elif isinstance(event.reply, Refusal):
            raise TokenselError(event.reply.reason)
        elif isinstance(event.reply, Answered):
            worker = self.workers.get(event.worker)
            job = worker.jobs.pop(event.reply.number, None) if worker else None
            if job is not None:  # else of a task that was given to somebody else
                self._finish(job, event.reply)

    def _finish(self, job: _Job, answered: Answered) -> None:
        if job.inquest is not None:
            self._tried(job, died=False)
        elif not job.done:
            job.done = True
            self.answered[job.batch] = answered

    def _died(self, event: Died) -> None:
        worker = self.workers.pop(event.worker, None)
        if worker is None:
            return
        self.note(f"worker {event.worker} ended ({event.why}); what it had begun is done again")
        for job in worker.jobs.values():
            if job.inquest is not None:
                self._tried(job, died=True)
                continue
            job.deaths += 1
            if job.done or any(job in other.jobs.values() for other in self.workers.values()):
                continue
            job.copied = False
            if job.deaths > DEATHS:  # alone, too
                lacking = self.answers.lacking(self.batches[job.batch])
                asked = {id for ids in lacking.values() for id in ids}
                ids = [question.id for question in self.batches[job.batch] if question.id in asked]
                job.inquest = Inquest(ids, list(lacking))
            self._do_again(job)

    def _do_again(self, job: _Job) -> None:
        self.again = sorted([*self.again, job], key=lambda each: each.batch)

    def _tried(self, job: _Job, died: bool) -> None:
        """Notes the outcome of a trial. After the last one, the batch goes on without what kills its workers."""
        inquest = job.inquest
        assert inquest is not None
        inquest.note(died)
        if inquest.trial is None:
            job = self._judged(job, inquest)
        self._do_again(job)

    def _judged(self, job: _Job, inquest: Inquest) -> _Job:
        """The batch, to be answered without what kills its workers."""
        batch = {question.id: question for question in self.batches[job.batch]}
        for id in inquest.bad_questions:
            message = f"question {id}: its worker dies whenever it is asked; see the logs of the workers"
            self.answers.store_bad(batch[id], BadSampleError(message, id))
        for key in inquest.bad_points:
            self.answers.fail(key, Failure(f"its worker dies on the batch of questions {_listed(batch)}"))
        if inquest.bad_questions or inquest.bad_points:
            return _Job(job.batch)
        if job.acquitted:
            raise TokenselError(
                f"batch_size={self.spec.batch_size}: workers die of the batch of questions {_listed(batch)}, but of "
                "none of them alone; a smaller batch needs less memory"
            )
        return _Job(job.batch, DEATHS, acquitted=True)

    def _store(self) -> None:
        """Stores the answers whose turn it is."""
        self.flushed = time.monotonic()
        lines: dict[str, dict[str, str]] = {}
        while self.stored < len(self.open) and (batch := self.open[self.stored]) in self.answered:
            answered = self.answered.pop(batch)
            self.stored += 1
            if answered.bad:
                self.answers.store(lines)
                lines = {}
                self._store_bad(batch, answered.bad)
            for key, failure in answered.failures.items():
                self.answers.fail(key, failure)
            for key, new in answered.lines.items():
                lines.setdefault(key, {}).update(new)
        self.answers.store(lines)

    def _store_bad(self, batch: int, bad: Mapping[str, str]) -> None:
        questions = {question.id: question for question in self.batches[batch]}
        for id, message in bad.items():
            self.answers.store_bad(questions[id], BadSampleError(message, id))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
