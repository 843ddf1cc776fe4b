"""How a sweep scales with its workers: the real driver and the real files, with workers that only sleep.

    python scripts/simulate_workers.py --workers 1 4 16 64 256
    python scripts/simulate_workers.py --workers 256 --seconds 0 --questions 500000 --points 20

Every worker takes `--seconds` for a batch (with `--spread`, between 1 - spread and 1 + spread of it), as a model would,
and answers it at every point. Tasks and answers are pickled as between real processes. Efficiency is the time that the
batches take on that many workers without a driver, over the time they took.
"""

import argparse
import heapq
import json
import pickle
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.store import PointStore, as_line
from tokensel.evaluation.sweep.by_workers import Stored
from tokensel.evaluation.workers.crew import Event, Said
from tokensel.evaluation.workers.dispatch import Dispatch
from tokensel.evaluation.workers.spec import Answered, Hello, Message, PassSpec, PointSpec, Task, batches_of

DEPTH = 3  # of a worker on a GPU: one batch is computed, one prepared, one waits
# A record of an answer by the letters' logits; the ids differ.
RECORD: dict[str, Any] = {"answer": 1, "correct": True, "skipped": False, "prediction": 1, "margin": 3.141593}


class Sleepers:
    """A crew whose workers sleep."""

    def __init__(self, workers: int, seconds: float, spread: float) -> None:
        self.workers, self.seconds, self.spread = workers, seconds, spread
        self.random = random.Random(0)
        self.free_at = [0.0] * workers
        self.asleep: list[tuple[float, int, bytes]] = []
        self.events: list[Event] = []
        self.worked, self.begun = 0.0, set[int]()
        self.tail = as_line({"id": ""} | RECORD).partition('"id": ""')[2]

    def begin(self, spec: PassSpec, alone: int | None = None) -> None:
        now = time.monotonic()
        self.free_at = [now] * self.workers
        self.events = [Said(worker, Hello(spec.name, DEPTH, "sleeping", {})) for worker in range(self.workers)]

    def send(self, worker: int, message: Message) -> None:
        takes = self.seconds * (1 + self.spread * self.random.uniform(-1, 1))
        if isinstance(message, Task) and message.batch not in self.begun:  # others are copies of a task that waits
            self.worked += takes
            self.begun.add(message.batch)
        # A worker that was idle begins now; one that is busy, when it has finished what it has.
        self.free_at[worker] = max(self.free_at[worker], time.monotonic()) + takes
        heapq.heappush(self.asleep, (self.free_at[worker], worker, pickle.dumps(message)))

    def wait(self, seconds: float) -> list[Event]:
        if not self.events and self.asleep:
            time.sleep(min(seconds, max(0.0, self.asleep[0][0] - time.monotonic())))
        events, self.events = self.events, []
        now = time.monotonic()
        while self.asleep and self.asleep[0][0] <= now:
            _, worker, message = heapq.heappop(self.asleep)
            events.append(Said(worker, pickle.loads(pickle.dumps(self.answer(pickle.loads(message))))))
        return events

    def answer(self, task: Task) -> Answered:
        start = '{"id": '
        lines = {key: {id: f"{start}{json.dumps(id)}{self.tail}" for id in ids} for key, ids in task.lacking.items()}
        return Answered(task.number, lines)

    def leftovers(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def close(self) -> None: ...
    def clear(self) -> None: ...


@dataclass
class Point:
    """What `Stored` asks of a point."""

    key: str
    store: PointStore


@dataclass
class Silent:
    """Progress that counts."""

    count: int = 0
    steps: list[str] = field(default_factory=list)

    def doing(self, what: str) -> None:
        self.steps.append(what)

    def predicted(self, count: int) -> None:
        self.count += count

    def timed(self, points: float) -> None: ...
    def finished_point(self, timed: bool) -> None: ...


def simulate(workers: int, seconds: float, spread: float, batches: int | None, arguments: Any) -> dict[str, float]:
    """One pass. batches: how many; None: as many as the questions fill."""
    size = arguments.batch_size
    count = arguments.questions if batches is None else batches * size
    questions = [Question(f"gqa/testdev/{200_000_000 + index}", "?", ("a", "b"), 0, None) for index in range(count)]
    points = [PointSpec(f"{index:012x}", GridPoint("full"), "") for index in range(arguments.points)]
    spec = PassSpec({}, None, Protocol(), "simulated", {}, count, "", points, size)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    crew = Sleepers(workers, seconds, spread)
    progress = Silent()
    try:
        stored = Stored([Point(each.key, PointStore(folder / each.key)) for each in points], "error", progress)  # type: ignore[arg-type]
        cut = batches_of(questions, size)
        began, cpu = time.monotonic(), time.process_time()
        Dispatch(crew, spec, cut, stored).run()
        took, cpu = time.monotonic() - began, time.process_time() - cpu
    finally:
        shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    best = crew.worked / workers
    return {
        "workers": workers,
        "batches": len(cut),
        "predictions": progress.count,
        "seconds": round(took, 2),
        "efficiency": round(best / took, 4) if best else float("nan"),
        "driver_cpu_share": round(cpu / took, 3),
        "predictions_per_s": round(progress.count / took),
        "peak_gib": round(peak, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=1.0, help="that a worker takes for a batch")
    parser.add_argument("--spread", type=float, default=0.2, help="of these seconds")
    parser.add_argument("--batches-per-worker", type=int, default=30)
    parser.add_argument("--questions", type=int, help="instead of batches per worker")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--folder", help="where results are written; default: the temporary folder")
    arguments = parser.parse_args()
    for workers in arguments.workers:
        batches = None if arguments.questions else workers * arguments.batches_per_worker
        print(json.dumps(simulate(workers, arguments.seconds, arguments.spread, batches, arguments)), flush=True)


if __name__ == "__main__":
    main()
