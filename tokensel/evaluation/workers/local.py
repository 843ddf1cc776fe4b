"""Workers that are processes of this machine: one for each GPU, or as many as wanted."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from tokensel.errors import TokenselError
from tokensel.evaluation.workers.answering import Answering
from tokensel.evaluation.workers.crew import Died, Event, Said
from tokensel.evaluation.workers.spec import Hello, Message, PassSpec, Refusal

# Workers that died one after another before they said Hello.
MOST_FALSE_STARTS = 3


class _Process:
    """A worker's process and the pipe to it. Its output goes to a log file."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        ours, theirs = Pipe()
        self.pipe, self.log = ours, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches the driver only, which then ends its workers.
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        theirs.close()

    def end(self) -> str:
        """Ends the process, if it runs still. Returns what is known of how it ended."""
        with suppress(OSError):
            self.pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit status {code}"


class LocalCrew:
    """`count` processes of this machine. logs: worker N writes to this path with "_worker-N" added to its stem.

    gpus: for each worker, its CUDA_VISIBLE_DEVICES; None leaves it. threads: of torch, for each worker.
    """

    def __init__(self, count: int, logs: Path, threads: int, gpus: list[str] | None = None) -> None:
        self.logs, self.threads, self.gpus = logs, threads, gpus
        self.spec: PassSpec | None = None
        self.processes: dict[int, _Process] = {}
        self.count = count
        self.false_starts = 0
        self.ready: set[int] = set()

    def begin(self, spec: PassSpec, alone: int | None = None) -> None:
        self.spec, self.ready = spec, set()
        wanted = range(self.count) if alone is None else [alone]
        for worker in [each for each in self.processes if each not in wanted]:
            self.processes.pop(worker).end()
        for worker in wanted:
            if worker in self.processes:
                self.send(worker, spec)
            else:
                self._start(worker)

    def _start(self, worker: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[worker % len(self.gpus)]
        log = self.logs.with_stem(f"{self.logs.stem}_worker-{worker}")
        self.processes[worker] = _Process(log, environment)
        if self.spec is not None:
            self.send(worker, self.spec)

    def send(self, worker: int, message: Message) -> None:
        with suppress(OSError):  # it died; the closed pipe says so in `wait`
            self.processes[worker].pipe.send(message)

    def wait(self, seconds: float) -> list[Event]:
        pipes = {process.pipe: worker for worker, process in self.processes.items()}
        events: list[Event] = []
        for pipe in wait(list(pipes), seconds):
            assert isinstance(pipe, Connection)
            worker = pipes[pipe]
            try:
                while pipe.poll():
                    reply = pipe.recv()
                    events.append(Said(worker, reply))
                    if isinstance(reply, Hello | Refusal):
                        self.ready.add(worker)
                        self.false_starts = 0
            except (EOFError, OSError):
                events.append(self._ended(worker))
        return events

    def _ended(self, worker: int) -> Died:
        """Starts a worker that died again."""
        process = self.processes.pop(worker)
        why = process.end()
        if worker not in self.ready:
            self.false_starts += 1
            if self.false_starts >= MOST_FALSE_STARTS:
                raise TokenselError(f"workers=local: a worker ended while it started ({why}); see {process.log}")
        self.ready.discard(worker)
        self._start(worker)
        return Died(worker, why)

    def leftovers(self) -> dict[str, dict[str, str]]:
        return {}

    def close(self) -> None:
        for process in self.processes.values():
            process.end()
        self.processes = {}

    def clear(self) -> None:
        """Leaves the logs."""


def visible_gpus(per_worker: int) -> list[str] | None:
    """CUDA_VISIBLE_DEVICES of each worker, for as many workers as there are GPUs for; None without a GPU.

    Raises TokenselError if there are fewer GPUs than one worker needs.
    """
    import torch

    count = torch.cuda.device_count()
    if not count or not per_worker:
        return None
    if count < per_worker:
        raise TokenselError(f"workers.gpus_per_worker={per_worker}: this machine has {count} GPUs")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    names = [each.strip() for each in visible.split(",")][:count]
    return [",".join(names[begin : begin + per_worker]) for begin in range(0, count - per_worker + 1, per_worker)]


def main() -> None:
    """A worker's process: reads messages from the pipe until the driver closes it."""
    pipe = Connection(int(sys.argv[1]))
    lock = threading.Lock()

    def reply(said: object) -> None:
        with lock, suppress(OSError):
            pipe.send(said)

    answering = Answering(reply)
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):  # the driver ended: so does this process, whatever it is doing
            os._exit(0)
        answering.take(message)


if __name__ == "__main__":
    main()
