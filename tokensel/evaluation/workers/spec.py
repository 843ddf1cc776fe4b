"""What the driver and its workers tell each other. All of it can be pickled, and written as JSON."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from pydantic import TypeAdapter

from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.evaluation.batches import cut_batches, order_questions
from tokensel.evaluation.failure import Failure
from tokensel.evaluation.grid_point import GridPoint


@dataclass(frozen=True)
class PointSpec:
    """A grid point. key: its folder's name. code: `code_digest` of the driver's code. file: FILE.py:CLASS of a user's
    method, or None."""

    key: str
    point: GridPoint
    code: str
    file: str | None = None


@dataclass(frozen=True)
class PassSpec:
    """One pass over the first `count` questions of a data set.

    model: the arguments of `load_model`. revision: of the checkpoint, as the driver sees it. data, data_options: of
    `load_questions`. digest: of these questions. scoring and what follows: as for `evaluate`; `positions` is how many
    of the first questions have their kept tokens stored. version: the driver's tokensel.
    """

    model: dict[str, Any]
    revision: str | None
    protocol: Protocol
    data: str
    data_options: dict[str, Any]
    count: int
    digest: str
    points: list[PointSpec]
    batch_size: int = 8
    scoring: str = "letter"
    on_bad_sample: str = "error"
    compiled: bool = False
    check_ties: bool = False
    positions: int = 0
    version: str = ""

    @cached_property
    def name(self) -> str:
        """A digest of everything that the pass is told."""
        return hashlib.sha256(as_json(self)).hexdigest()[:12]


def batches_of(questions: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """The batches of a pass, cut from the full list, so that a question has the same neighbours in every run."""
    return list(cut_batches(order_questions(questions), batch_size))


@dataclass(frozen=True)
class Task:
    """A batch to answer. lacking: for each point, by key, the ids of the questions whose answer it lacks."""

    number: int
    batch: int
    lacking: dict[str, list[str]]


@dataclass(frozen=True)
class TimingTask:
    """Points, by key, to be timed together on one question. latency: the arguments of `LatencyMeter`. threads: of the
    worker, which is alone meanwhile; None: as many as it has."""

    number: int
    keys: list[str]
    question: str
    latency: dict[str, Any]
    threads: int | None = None


@dataclass(frozen=True)
class Answered:
    """The answers to a task. lines: for each point, by key, its new lines of predictions.jsonl by question id. bad:
    what is wrong with questions that cannot be asked, by id."""

    number: int
    lines: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """The times of a TimingTask's points, by key, and why others have none.

    ticks: how many points' runs are done. done: whether all are; until then, a reply without times follows each run.
    """

    number: int
    done: bool
    ticks: float = 0.0
    times: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    not_compiled: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hello:
    """A worker that is ready for a pass. depth: how many tasks keep it busy. provenance: `provenance` of its model."""

    spec: str
    depth: int
    device: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """Why a worker cannot take part, in one line."""

    reason: str


Message = PassSpec | Task | TimingTask
Reply = Hello | Answered | Timed | Refusal
_KINDS: dict[str, type] = {
    each.__name__: each for each in (PassSpec, Task, TimingTask, Hello, Answered, Timed, Refusal)
}


def as_json(message: Message | Reply) -> bytes:
    """The message in one line, without the line's end."""
    name = type(message).__name__
    return _adapter(name).dump_json({name: message})


def from_json(line: bytes) -> Any:
    """The message that `as_json` wrote. Raises ValueError for anything else."""
    name = line[: line.find(b":")].strip(b'{ "').decode()
    if name not in _KINDS:
        raise ValueError(f"no message: {name[:40]}")
    return _adapter(name).validate_json(line)[name]


@cache
def _adapter(name: str) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(dict[str, _KINDS[name]])  # type: ignore[misc, valid-type]
