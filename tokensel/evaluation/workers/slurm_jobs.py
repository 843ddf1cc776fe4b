"""Workers that are jobs of Slurm, submitted with submitit; driver and workers share the results folder only.

    <results>/workers/<start>/alive              a number that the driver raises while it lives
    <results>/workers/<start>/stop               ends the workers of this start; in a mailbox, its worker
    <results>/workers/<start>/worker-N.M/        the mailbox of worker N after M deaths

What workers have answered when their driver dies is taken over by its next start.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from tokensel.errors import TokenselError, first_line
from tokensel.evaluation.workers.answering import Answering
from tokensel.evaluation.workers.crew import Died, Event, Said
from tokensel.evaluation.workers.mailbox import INBOX, OUTBOX, Lines, add_line
from tokensel.evaluation.workers.spec import Answered, Hello, Message, PassSpec, Refusal, Reply, as_json, from_json

FOLDER, STOP, ALIVE = "workers", "stop", "alive"
# Between two looks at the files, and at the states of jobs.
POLL_SECONDS, STATE_SECONDS = 0.1, 2.0
# The driver says so often that it lives; an idle worker that has not heard of it for so long ends.
ALIVE_SECONDS, FORSAKEN_SECONDS = 5.0, 60.0
END_SECONDS = 5.0
MOST_FALSE_STARTS = 3


class SlurmCrew:
    """`count` jobs. results: the sweep's folder. logs: a folder for what submitit and the jobs write.

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
        self.logs, self.cluster, self.threads = logs, cluster, parameters.get("cpus_per_task", 1)
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
        self._end([worker for worker in self.jobs if worker not in wanted])
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
        boxes = [str(self.boxes[worker]) for worker in workers]
        threads = [self.threads] * len(boxes)
        try:
            with _errors_to(self.logs / "submitit.log") if self.cluster == "local" else nullcontext():
                jobs = self.executor.map_array(work, boxes, threads) if boxes else []
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
            (self.folder / ALIVE).write_text(str(self.beats))

    def close(self) -> None:
        with suppress(OSError):
            (self.folder / STOP).touch()
        self._end(list(self.jobs))

    def _end(self, workers: list[int]) -> None:
        """Ends workers, and waits a little until they have ended."""
        jobs = [self.jobs.pop(worker) for worker in workers]
        for worker, job in zip(workers, jobs, strict=True):
            with suppress(OSError):
                (self.boxes[worker] / STOP).touch()
            if self.cluster == "slurm":  # it may wait in the queue
                job.cancel(check=False)
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until and not all(job.done() for job in jobs):
            time.sleep(POLL_SECONDS)

    def clear(self) -> None:
        """Deletes the mailboxes of all starts."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


@contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """What is started in the block writes its errors to a file: submitit's own process prints a traceback on Ctrl-C."""
    before = os.dup(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _read_leftovers(folder: Path) -> dict[str, dict[str, str]]:
    """What workers of earlier starts have answered; ends those that run still."""
    found: dict[str, dict[str, str]] = {}
    for start in sorted(folder.glob("*/")):
        with suppress(OSError):
            (start / STOP).touch()
        for outbox in sorted(start.glob(f"*/{OUTBOX}")):
            for line in Lines(outbox).new():
                with suppress(ValueError):
                    reply = from_json(line)
                    if isinstance(reply, Answered):
                        for key, lines in reply.lines.items():
                            found.setdefault(key, {}).update(lines)
    return found


def work(box: str, threads: int) -> None:
    """A worker's job: follows its inbox until the driver ends it, or has not been alive for a minute."""
    torch.set_num_threads(threads)
    folder = Path(box)
    threading.Thread(target=_watch, args=(folder,), daemon=True).start()
    inbox, lock = Lines(folder / INBOX), threading.Lock()

    def reply(said: Reply) -> None:
        with lock:
            add_line(folder / OUTBOX, as_json(said))

    answering = Answering(reply)
    # Of a job that Slurm has started again: the driver gives its old tasks to others.
    specs = [message for message in map(from_json, inbox.new()) if isinstance(message, PassSpec)]
    for spec in specs[-1:]:
        answering.take(spec)
    while True:
        for message in map(from_json, inbox.new()):
            answering.take(message)
        time.sleep(POLL_SECONDS)


def _watch(box: Path) -> None:
    """Ends this process, whatever it is doing, once it is told to, or its driver has not been alive for a minute."""
    said, heard = "", time.monotonic()
    # The next start deletes the mailboxes of this one.
    while box.exists() and not any((folder / STOP).exists() for folder in (box, box.parent)):
        with suppress(OSError):
            if (now := (box.parent / ALIVE).read_text()) != said:
                said, heard = now, time.monotonic()
        if time.monotonic() - heard > FORSAKEN_SECONDS:
            break
        time.sleep(5 * POLL_SECONDS)
    os._exit(0)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise TokenselError('workers=slurm: submitit is not installed; pip install "tokensel[slurm]"') from error
    return submitit
