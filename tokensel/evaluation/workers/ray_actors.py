"""Workers that are actors of Ray, on this machine or on a cluster. Ray starts them where there is room, and again where
one dies."""

import logging
import socket
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tokensel.errors import TokenselError, first_line
from tokensel.evaluation.workers.answering import Answering, write_log
from tokensel.evaluation.workers.crew import Died, Event, Said
from tokensel.evaluation.workers.spec import Answered, Message, PassSpec, Reply, Timed

_USUAL_COUNT = 2
# Calls of one actor that may run at once: more than any worker's depth.
_CALLS = 64
# Between two calls of an actor that Ray is starting again.
_RETRY_SECONDS = 0.5
_CONNECT_SECONDS = 5.0


class RayCrew:
    """`count` actors; None: one for each GPU of the cluster, else two.

    logs: as for `LocalCrew`, where the actors' machines see that folder.

    address: of a running cluster, or auto for the one that this machine belongs to; None starts Ray here. cpus, gpus:
    what Ray reserves for each actor; gpus None: one, if the cluster has any.

    Raises TokenselError if Ray is not installed, or nobody answers at the address.
    """

    def __init__(
        self, count: int | None, logs: Path, address: str | None, cpus: int = 1, gpus: float | None = None
    ) -> None:
        self.ray = _ray()
        self._connect(address, (count or _USUAL_COUNT) * cpus)
        there = int(self.ray.cluster_resources().get("GPU", 0))
        if gpus is None:
            gpus = min(1, there)
        if count is None:
            count = max(1, int(there // gpus)) if gpus else _USUAL_COUNT
        self.count, self.logs, self.cpus = count, logs, cpus
        self.kind = self.ray.remote(Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=0, max_concurrency=_CALLS
        )
        self.actors: dict[int, Any] = {}
        self.calls: dict[Any, tuple[int, Message]] = {}
        self.restarting: dict[int, float] = {}  # worker -> when to call it again
        self.spec: PassSpec | None = None

    def _connect(self, address: str | None, cpus: int) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        if address is None:
            # Ray counts the machine's processors; more workers than these are wanted on purpose.
            options["num_cpus"] = max(cpus, 1)
        else:
            options = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
            _check_answers(address)
        try:
            self.ray.init(**options)
        except Exception as error:  # of many classes: no cluster, another version of Ray or Python, a broken address
            where = "starting Ray failed" if address is None else "no Ray cluster answers"
            raise TokenselError(f"workers.address={address or 'null'}: {where} ({first_line(error)})") from error

    def begin(self, spec: PassSpec, alone: int | None = None) -> None:
        self.spec = spec
        wanted = range(self.count) if alone is None else [alone]
        for worker in [each for each in self.actors if each not in wanted]:
            self.ray.kill(self.actors.pop(worker))
        self.calls = {call: each for call, each in self.calls.items() if each[0] in wanted}
        self.restarting = {worker: due for worker, due in self.restarting.items() if worker in wanted}
        for worker in wanted:
            if worker not in self.actors:
                log = self.logs.with_stem(f"{self.logs.stem}_worker-{worker}")
                self.actors[worker] = self.kind.remote(list(sys.path), str(log.absolute()), self.cpus)
            if worker not in self.restarting:  # else `wait` sends it
                self.send(worker, spec)

    def send(self, worker: int, message: Message) -> None:
        self.calls[self.actors[worker].handle.remote(message)] = worker, message

    def wait(self, seconds: float) -> list[Event]:
        now = time.monotonic()
        for worker in [each for each, due in self.restarting.items() if due <= now]:
            del self.restarting[worker]
            if self.spec is not None:
                self.send(worker, self.spec)
        if not self.calls:
            time.sleep(min(seconds, _RETRY_SECONDS))
            return []
        calls = list(self.calls)
        done, waiting = self.ray.wait(calls, timeout=min(seconds, _RETRY_SECONDS) if self.restarting else seconds)
        if done and waiting:  # whatever else is there already
            done += self.ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        return [event for call in done if call in self.calls for event in self._outcome(call)]

    def _outcome(self, call: Any) -> list[Event]:
        worker, message = self.calls.pop(call)
        errors = self.ray.exceptions
        try:
            return [Said(worker, self.ray.get(call))]
        except errors.ActorUnavailableError as error:
            why = first_line(error)
        except errors.RayActorError as error:
            if error.actor_init_failed:
                raise TokenselError(f"workers=ray: a worker cannot start ({_cause(error)})") from error
            why = "its process died"
        except errors.RayError as error:
            raise TokenselError(f"workers=ray: {_cause(error)}") from error
        first = worker not in self.restarting
        self.calls = {other: each for other, each in self.calls.items() if each[0] != worker}
        self.restarting[worker] = time.monotonic() + _RETRY_SECONDS
        return [Died(worker, why)] if first and not isinstance(message, PassSpec) else []

    def leftovers(self) -> dict[str, dict[str, str]]:
        return {}

    def close(self) -> None:
        self.actors, self.calls = {}, {}
        self.ray.shutdown()

    def clear(self) -> None:
        """Leaves the logs."""


class Actor:
    """What runs on Ray. paths: where the driver's Python looks for modules. log: the file that its output goes to."""

    def __init__(self, paths: list[str], log: str, threads: int) -> None:
        import torch

        sys.path += [path for path in paths if path not in sys.path]
        write_log(Path(log))
        torch.set_num_threads(max(1, threads))
        self.answering = Answering(self._reply)
        self.waiting: dict[int, Future[Reply]] = {}
        self.lock = threading.Lock()

    def handle(self, message: Message) -> Reply:
        """The reply to a message. Several may be handled at once."""
        future: Future[Reply] = Future()
        with self.lock:
            self.waiting[0 if isinstance(message, PassSpec) else message.number] = future
            self.answering.take(message)
        return future.result()

    def _reply(self, reply: Reply) -> None:
        if isinstance(reply, Timed) and not reply.done:
            return  # a call has one result
        number = reply.number if isinstance(reply, Answered | Timed) else 0
        self.waiting.pop(number).set_result(reply)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise TokenselError('workers=ray: Ray is not installed; pip install "tokensel[ray]"') from error
    return ray


def _check_answers(address: str) -> None:
    """Raises TokenselError if nobody listens at HOST:PORT: Ray itself would wait for minutes, and print much."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, or what Ray itself refuses
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise TokenselError(f"workers.address={address}: no Ray cluster answers ({first_line(error)})") from error


def _cause(error: BaseException) -> str:
    """The last line of an error of Ray's, which holds the traceback of a worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
