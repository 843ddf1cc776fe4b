"""How a driver speaks to its workers, whatever they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tokensel.evaluation.workers.spec import Message, PassSpec, Reply


@dataclass(frozen=True)
class Said:
    """A worker's reply."""

    worker: int
    reply: Reply


@dataclass(frozen=True)
class Died:
    """A worker ended, and what it had not answered is lost. why: what is known of it."""

    worker: int
    why: str


Event = Said | Died


class Crew(Protocol):
    """Workers that come, die and come back. Used by one thread.

    A worker says Hello for the pass before it gets tasks. One that died is started again, and says Hello again.
    """

    def begin(self, spec: PassSpec, alone: int | None = None) -> None:
        """From now on, workers answer this pass: those that run, and those that come later.

        alone: the only worker that there is from now on; all others are ended.
        """

    def send(self, worker: int, message: Message) -> None:
        """Gives a worker a task. If it is dead, `wait` will say so."""

    def wait(self, seconds: float) -> list[Event]:
        """What happened; waits for the first event up to so many seconds.

        Raises TokenselError if no worker can be started.
        """

    def leftovers(self) -> Mapping[str, Mapping[str, str]]:
        """Lines of predictions.jsonl that workers of earlier starts have left, by the point's key and question id."""

    def close(self) -> None:
        """Ends all workers, at once. May be called any number of times."""

    def clear(self) -> None:
        """Deletes what workers have left, once everything is stored."""
