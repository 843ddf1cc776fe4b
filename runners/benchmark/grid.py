"""Part c: what a grid of points costs relative to one pass of the full model over the same questions."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from runners.benchmark.output import Bar, TableRow
from runners.benchmark.timing import paired_ratio, quartiles, seconds, take_turns
from tokensel.data import Question
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.store import PointStore
from tokensel.models import LoadedModel

SWEEP_KEPT = (8, 16, 32, 64)
TEMPERATURES = (0.1, 0.5)


def measure_grid(
    loaded: LoadedModel, questions: Sequence[Question], passes: int, batch_size: int, compiled: bool = False
) -> list[TableRow]:
    """A line per run: the full model, 8 points and 16 points on half of the questions; the first two also on all.

    over_full    the run's seconds divided by the full model's on the same questions
    over_half    for 8 points: seconds on all questions divided by those on half of them
    peak_bytes   for 8 points: peak memory on all questions; peak_growth_bytes: how much more than on half of them

    compiled     compile what follows a reduction; the untimed first runs compile the graphs
    """
    half, full = list(questions[: len(questions) // 2]), [GridPoint("full")]
    runs = {
        "full": (half, full),
        "8 points": (half, make_grid(1)),
        "16 points": (half, make_grid(2)),
        "full, twice": (list(questions), full),
        "8 points, twice": (list(questions), make_grid(1)),
    }
    bar = Bar("c", len(runs) * passes + 2)

    def timed(asked: list[Question], points: list[GridPoint]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            stores = [PointStore(Path(folder) / str(index)) for index in range(len(points))]
            taken = seconds(lambda: _evaluate(loaded, asked, points, stores, batch_size, compiled), loaded.device)
            for store in stores:
                store.close()
        return taken

    peaks = []
    for name in ("8 points", "8 points, twice"):  # these runs are also the warm-up
        peaks.append(peak_memory(partial(timed, *runs[name])))
        bar.tick()
    found = take_turns({name: partial(timed, *run) for name, run in runs.items()}, passes, 0, bar.tick)
    lines = []
    for name, (asked, points) in runs.items():
        base = "full, twice" if name.endswith("twice") else "full"
        line = {"run": name, "questions": len(asked), "points": len(points), "seconds": quartiles(found[name])}
        lines.append(line | {"over_full": paired_ratio(found[name], found[base])})
    lines[-1] |= {
        "over_half": paired_ratio(found["8 points, twice"], found["8 points"]),
        "peak_bytes": peaks[1],
        "peak_growth_bytes": None if peaks[0] is None or peaks[1] is None else peaks[1] - peaks[0],
    }
    return lines


def make_grid(temperatures: int) -> list[GridPoint]:
    """8 points per temperature: 4 values of kept for fps and tome each, all at agg_layer 2."""
    cells = product(SWEEP_KEPT, ("fps", "tome"), TEMPERATURES[:temperatures])
    return [GridPoint(method, kept, 2, temperature) for kept, method, temperature in cells]


def _evaluate(
    loaded: LoadedModel,
    questions: list[Question],
    points: list[GridPoint],
    stores: list[PointStore],
    batch_size: int,
    compiled: bool,
) -> None:
    for error in evaluate(loaded, questions, points, stores, batch_size=batch_size, compiled=compiled).values():
        raise error


def peak_memory(work: Callable[[], object]) -> int | None:
    """The process's peak resident memory during `work`, in bytes; None on systems without Linux's /proc."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # resets the peak
        work()
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024
    except OSError:
        return None
