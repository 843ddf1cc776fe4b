"""What a command is doing, on standard error: a bar from its first second, or a line now and then where standard error
is no terminal."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

# Timing one point counts in the bar as this many predictions.
TIMING_WEIGHT = 20
LINE_SECONDS = 20.0
# Beside the bar, a line takes up to this many characters.
_BESIDE_BAR = 72
_NARROWEST, _WIDEST = 8, 40


class _TimeLeft(ProgressColumn):
    """The time left, once it can be estimated."""

    estimate = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None or task.speed is None else self.estimate.render(task)


class SweepProgress:
    """Says what is being done, and counts questions and points once `expect` has said how many there are.

    A question is done when every point that lacked it has its prediction; a point when it has all its figures.
    """

    def __init__(self, doing: str = "loading libraries") -> None:
        self.what, self.counted = doing, True
        self.questions = self.points = self.finished = 0
        self.wanted = self.predictions = 0
        self.total = 0
        self.timing, self.timed_points = 0.0, 0
        self.began = self.last_line = self.predicting_since = time.monotonic()
        self.predicting = 0.0
        console = Console(stderr=True)
        self.live = console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(max(_NARROWEST, min(_WIDEST, console.width - _BESIDE_BAR))),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            _TimeLeft(),
            console=console,
            disable=not self.live,
            transient=True,
        )
        self.task = self.bar.add_task(self._title(), total=None, rate="")

    def __enter__(self) -> "SweepProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def doing(self, what: str, counted: bool = True) -> None:
        """From now on, the command does this. counted: whether questions and points are shown beside it."""
        self.what, self.counted = what, counted
        self.predicting_since = time.monotonic()
        self._show()

    def expect(self, points: int, questions: int, wanted: int, timed: int) -> None:
        """points: how many have work left. questions: how many are to be asked. wanted: predictions that the points
        lack. timed: how many points are to be timed. Counting begins anew."""
        self.points, self.questions, self.wanted = points, questions, wanted
        self.predictions = self.finished = self.timed_points = 0
        self.timing = self.predicting = 0.0
        self.total = wanted + TIMING_WEIGHT * timed
        self.began = time.monotonic()
        self._show()

    def predicted(self, count: int) -> None:
        """`count` more predictions are stored."""
        self.predictions += count
        now = time.monotonic()
        self.predicting += now - self.predicting_since
        self.predicting_since = now
        self._show()

    def timed(self, points: float) -> None:
        """The runs of so many more points are timed; a part of a point for each of its runs."""
        self.timing += points
        self._show()

    def finished_point(self, timed: bool) -> None:
        """A point has all its figures, or failed. timed: whether times were to be taken for it."""
        self.finished += 1
        self.timed_points += timed
        self.timing = max(self.timing, self.timed_points)  # one that failed lacks runs
        self._show()

    @property
    def done(self) -> float:
        """What the bar shows as done, of `total`."""
        return self.predictions + TIMING_WEIGHT * self.timing

    @property
    def asked(self) -> int:
        """The questions done."""
        return self.questions * self.predictions // self.wanted if self.wanted else self.questions

    def _title(self) -> str:
        if not self.points or not self.counted:
            return self.what
        return f"{self.what}: questions {self.asked}/{self.questions}, points {self.finished}/{self.points}"

    def _rate(self) -> str:
        """Questions per second."""
        if not self.asked or not self.predicting:
            return ""
        return f"{self.asked / self.predicting:.1f}/s"

    def _show(self) -> None:
        self.bar.update(
            self.task, completed=self.done, total=self.total or None, description=self._title(), rate=self._rate()
        )
        now = time.monotonic()
        # Before anything is counted, only a slow start is worth a line.
        if self.live or now - self.last_line < (LINE_SECONDS if self.done else 3 * LINE_SECONDS):
            return
        self.last_line = now
        line = self._title()
        if self.done:
            left = (now - self.began) / self.done * (self.total - self.done)
            line += f"  {self.done / max(self.total, 1):.0%}  {self._rate()}  ETA {left:.0f} s"
        print(line, file=sys.stderr, flush=True)
