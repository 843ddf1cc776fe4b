"""Workers that are jobs of Slurm, submitted with submitit; driver and workers share the results folder only.

    <results>/workers/<start>/alive              a number that the driver raises while it lives
    <results>/workers/<start>/stop               ends the workers of this start
    <results>/workers/<start>/worker-N.M/        the mailbox of worker N after M deaths

What workers have answered when their driver dies is taken over by its next start.
"""

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokensel.errors import TokenselError, first_line
from tokensel.evaluation.workers.answering import Answering
from tokensel.evaluation.workers.crew import Died, Event, Said
from tokensel.evaluation.workers.mailbox import INBOX, OUTBOX, Lines, add_line
from tokensel.evaluation.workers.spec import Answered, Hello, Message, PassSpec, Refusal, as_json, from_json

FOLDER = "workers"
# Between two looks at the files, and at the states of jobs.
POLL_SECONDS, STATE_SECONDS = 0.1, 2.0
# The driver says so often that it lives; an idle worker that has not heard of it for so long ends.
ALIVE_SECONDS, FORSAKEN_SECONDS = 5.0, 60.0
MOST_FALSE_STARTS = 3


class SlurmCrew:
    """`count` jobs. results: the sweep's folder.

    cluster: slurm, or local, which runs the same without Slurm. parameters: of submitit's executor, such as
    timeout_min, cpus_per_task, gpus_per_node and slurm_partition.

    Raises TokenselError if submitit is not installed, or there is no Slurm.
    """

    def __init__(self, count: int, results: Path, logs: Path, cluster: str, parameters: dict[str, Any]) -> None:
        submitit = _submitit()
        folder = results / FOLDER
        self.leftover = _read_leftovers(folder)
        self.folder = folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
        self.folder.mkdir(parents=True)
        self.logs = logs
        try:
            self.executor = submitit.AutoExecutor(folder=str(logs), cluster=cluster)
            self.executor.update_parameters(name="tokensel", **parameters)
        except Exception as error:
            raise TokenselError(f"workers.cluster={cluster}: {first_line(error)}") from error
        self.spec: PassSpec | None = None
        self.count = count
        self.jobs: dict[int, Any] = {}
        self.boxes: dict[int, Path] = {}
        self.outboxes: dict[int, Lines] = {}
        self.starts = dict.fromkeys(range(count), 0)
        self.ready: set[int] = set()
        self.false_starts = 0
        self.beats, self.beat_at, self.looked_at = 0, 0.0, time.monotonic()

    def leftovers(self) -> dict[str, dict[str, str]]:
        return self.leftover

    def begin(self, spec: PassSpec, alone: int | None = None) -> None:
        self.spec, self.ready = spec, set()
        self._beat()
        wanted = list(range(self.count)) if alone is None else [alone]
        for worker in [each for each in self.jobs if each not in wanted]:
            self.jobs.pop(worker).cancel(check=False)
        for worker in self.jobs:
            self.send(worker, spec)
        self._submit([worker for worker in wanted if worker not in self.jobs])

    def _submit(self, workers: list[int]) -> None:
        for worker in workers:
            box = self.folder / f"worker-{worker}.{self.starts[worker]}"
            box.mkdir()
            self.starts[worker] += 1
            self.boxes[worker], self.outboxes[worker] = box, Lines(box / OUTBOX)
            if self.spec is not None:
                self.send(worker, self.spec)
        try:
            jobs = self.executor.map_array(work, [str(self.boxes[worker]) for worker in workers]) if workers else []
        except Exception as error:
            raise TokenselError(f"workers=slurm: jobs cannot be submitted ({first_line(error)})") from error
        self.jobs |= dict(zip(workers, jobs, strict=True))

    def send(self, worker: int, message: Message) -> None:
        add_line(self.boxes[worker] / INBOX, as_json(message))

    def wait(self, seconds: float) -> list[Event]:
        until = time.monotonic() + seconds
        while True:
            self._beat()
            events = [event for worker in list(self.jobs) for event in self._heard(worker)]
            if time.monotonic() - self.looked_at >= STATE_SECONDS:
                events += self._ended()
                self.looked_at = time.monotonic()
            if events or time.monotonic() >= until:
                return events
            time.sleep(max(POLL_SECONDS, 0.001 * len(self.jobs)))

    def _heard(self, worker: int) -> list[Event]:
        events: list[Event] = []
        for line in self.outboxes[worker].new():
            try:
                reply = from_json(line)
            except ValueError:  # of a worker that was killed
                continue
            if isinstance(reply, Hello | Refusal):
                if worker in self.ready and isinstance(reply, Hello):  # Slurm has started its job again
                    events.append(Died(worker, "its job was started again"))
                self.ready.add(worker)
                self.false_starts = 0
            events.append(Said(worker, reply))
        return events

    def _ended(self) -> list[Event]:
        """The jobs that have ended, of which others take the place."""
        ended = [worker for worker, job in self.jobs.items() if job.done()]
        events: list[Event] = []
        for worker in ended:
            events += self._heard(worker)  # its last words
            job = self.jobs.pop(worker)
            why = f"job {job.job_id}: {job.state}"
            events.append(Died(worker, why))
            if worker not in self.ready:
                self.false_starts += 1
                if self.false_starts >= MOST_FALSE_STARTS:
                    raise TokenselError(f"workers=slurm: a worker ended while it started ({why}); see {self.logs}")
            self.ready.discard(worker)
        self._submit(ended)
        return events

    def _beat(self) -> None:
        if time.monotonic() - self.beat_at >= ALIVE_SECONDS:
            self.beats, self.beat_at = self.beats + 1, time.monotonic()
            (self.folder / "alive").write_text(str(self.beats))

    def close(self) -> None:
        with suppress(OSError):
            (self.folder / "stop").touch()
        for job in self.jobs.values():
            with suppress(Exception):  # of a job that has ended
                job.cancel(check=False)
        self.jobs = {}

    def clear(self) -> None:
        """Deletes the mailboxes of all starts."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def _read_leftovers(folder: Path) -> dict[str, dict[str, str]]:
    """What workers of earlier starts have answered; ends those that run still."""
    found: dict[str, dict[str, str]] = {}
    for start in sorted(folder.glob("*/")):
        with suppress(OSError):
            (start / "stop").touch()
        for outbox in sorted(start.glob(f"*/{OUTBOX}")):
            for line in Lines(outbox).new():
                with suppress(ValueError):
                    reply = from_json(line)
                    if isinstance(reply, Answered):
                        for key, lines in reply.lines.items():
                            found.setdefault(key, {}).update(lines)
    return found


def work(box: str) -> None:
    """A worker's job: follows its inbox until the driver ends it, or has not been alive for a minute."""
    folder = Path(box)
    inbox, outbox = Lines(folder / INBOX), folder / OUTBOX
    lock = threading.Lock()

    def reply(said: Any) -> None:
        with lock:
            add_line(outbox, as_json(said))

    answering = Answering(reply)
    # A job that Slurm has started again: the driver gives its old tasks to others.
    old = [from_json(line) for line in inbox.new()]
    for spec in [message for message in old if isinstance(message, PassSpec)][-1:]:
        answering.take(spec)
    alive, heard = "", time.monotonic()
    while not (folder.parent / "stop").exists():
        messages = [from_json(line) for line in inbox.new()]
        for message in messages:
            answering.take(message)
        with suppress(OSError):
            said = (folder.parent / "alive").read_text()
            if said != alive or messages:
                alive, heard = said, time.monotonic()
        if time.monotonic() - heard > FORSAKEN_SECONDS:
            break
        time.sleep(POLL_SECONDS)
    answering.close()


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise TokenselError('workers=slurm: submitit is not installed; pip install "tokensel[slurm]"') from error
    return submitit
