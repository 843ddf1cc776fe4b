"""One progress bar for a whole sweep; where standard error is no terminal, a line now and then instead."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Timing one point counts in the bar as this many predictions.
TIMING_WEIGHT = 20
LINE_SECONDS = 20.0


class SweepProgress:
    """Counts predictions and finished points.

    points: how many have work left. wanted: predictions that they lack. timed: how many of them are to be timed.
    """

    def __init__(self, points: int, wanted: int, timed: int) -> None:
        self.points, self.finished = points, 0
        self.predictions = 0
        self.total, self.done = wanted + TIMING_WEIGHT * timed, 0
        self.began = self.last_line = time.monotonic()
        self.predicting = 0.0
        console = Console(stderr=True)
        self.live = console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(self._title(), total=self.total, rate="")

    def __enter__(self) -> "SweepProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def predicted(self, count: int) -> None:
        """`count` more predictions are stored."""
        self.predictions += count
        self.predicting = time.monotonic() - self.began
        self._advance(count)

    def finished_point(self, timed: bool) -> None:
        """A point has all its figures, or failed. timed: whether times were to be taken for it."""
        self.finished += 1
        self._advance(TIMING_WEIGHT if timed else 0)

    def _title(self) -> str:
        return f"points {self.finished}/{self.points}"

    def _rate(self) -> str:
        """Questions per second; a question counts when every point that lacked it has its prediction."""
        if not self.predictions or not self.predicting:
            return ""
        return f"{self.predictions / self.predicting / max(self.points, 1):.1f} questions/s"

    def _advance(self, weight: int) -> None:
        self.done += weight
        self.bar.update(self.task, completed=self.done, description=self._title(), rate=self._rate())
        now = time.monotonic()
        if not self.live and now - self.last_line >= LINE_SECONDS and self.done:
            self.last_line = now
            left = (now - self.began) / self.done * (self.total - self.done)
            share = f"{self.done / max(self.total, 1):.0%}"
            print(f"{self._title()}  {share}  {self._rate()}  ETA {left:.0f} s", file=sys.stderr, flush=True)
