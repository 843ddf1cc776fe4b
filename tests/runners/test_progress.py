"""What a command says while it works, in questions and points."""

import re

import pytest

from runners.terminal import progress
from runners.terminal.progress import SweepProgress


@pytest.fixture
def told(monkeypatch, capsys):
    """What was printed to standard error since the last call, each line without rate and time."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    return lambda: [re.sub(r"  +[\d.]+/s|  +ETA \d+ s", "", line) for line in capsys.readouterr().err.splitlines()]


def test_it_says_what_it_does_before_anything_is_counted(told):
    with SweepProgress() as shown:
        shown.doing("loading the model")
    assert told() == ["loading the model"]


def test_questions_are_counted_when_all_points_have_them_and_timing_moves_the_bar(told):
    with SweepProgress() as shown:
        shown.expect(points=3, questions=10, wanted=30, timed=2)
        shown.doing("answering")
        for _ in range(3):  # a batch of four, stored point by point
            shown.predicted(4)
        told()
        shown.predicted(18)
        assert told() == ["answering: questions 10/10, points 0/3  43%"]
        shown.finished_point(timed=False)
        shown.doing("timing")
        shown.timed(0.5)
        assert told()[-1] == "timing: questions 10/10, points 1/3  57%"
        shown.finished_point(timed=True)  # it failed halfway
        assert told() == ["timing: questions 10/10, points 2/3  71%"]
        shown.timed(1.0)
        shown.finished_point(timed=True)
        assert told()[-1] == "timing: questions 10/10, points 3/3  100%"
        shown.doing("writing the results", counted=False)
        assert told() == ["writing the results  100%"]


def test_a_long_line_fits_80_columns_with_its_rate_and_time_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("TTY_INTERACTIVE", "0")
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    shown = SweepProgress("answering")
    shown.bar.tasks[0]._get_time = lambda: seconds[0]
    shown.bar.start_task(shown.task)
    shown.expect(points=120, questions=12_726, wanted=12_726 * 120, timed=120)
    for answered in (1, 4_000, 6_362):  # 0.1 s each
        seconds[0] += answered / 10
        shown.predicted(answered * 120)
    with shown.bar.console.capture() as printed:
        shown.bar.console.print(shown.bar.get_renderable())
    (line,) = re.sub(r"\x1b\[[\d;]*m", "", printed.get()).splitlines()
    assert len(line) <= 80
    assert re.fullmatch(r"answering: questions 10363/12726, points 0/120 [━╸╺]{8}  81% 10\.0/s 0:0\d:\d\d *", line)


def test_a_question_counts_only_when_every_point_has_it(told):
    with SweepProgress() as shown:
        shown.expect(points=2, questions=10, wanted=20, timed=0)
        shown.predicted(5)
        assert (shown.asked, told()[-1]) == (2, "loading libraries: questions 2/10, points 0/2  25%")


def test_a_log_is_not_filled_with_lines(capsys):
    with SweepProgress() as shown:
        shown.expect(points=1, questions=100, wanted=100, timed=0)
        for _ in range(100):
            shown.predicted(1)
    assert capsys.readouterr().err == ""
