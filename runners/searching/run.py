"""Runs a search: trials on validation questions, then the best of them on the test's."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.configuration.compose import Command, is_varied
from runners.searching.sweeper import Jobs, jobs_of, propose
from runners.sweeping.run import Finished, check_place, run_plan
from runners.terminal.arguments import write_whole
from runners.terminal.program import importing

if TYPE_CHECKING:
    from runners.terminal.progress import SweepProgress
    from tokensel.evaluation.search.outcome import Outcome
    from tokensel.evaluation.search.trials import Trials
    from tokensel.evaluation.sweep.work import PointWork

SUMMARY = "search.json"
# Below the results' folder: the trials' points, which hold validation questions alone.
VALIDATION = "validation"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Searched:
    """What a search prints at its end. test: the sweep over the test questions. summary: the content of search.json."""

    test: Finished
    outcome: "Outcome"
    summary: dict[str, Any]


def run_search(command: Command, conf: Path, progress: "SweepProgress") -> Searched:
    """Runs a whole search. conf: the folder with search.yaml.

    Raises TokenselError or Hydra's own errors for a mistake in the settings or the data.
    """
    from tokensel.evaluation.search.settings import read_search
    from tokensel.evaluation.sweep.reading import read_settings

    rules = jobs_of([each for each in command.overrides if not is_varied(each) or each.startswith("method=")], conf)
    settings = [read_settings(job) for job in rules]
    search = read_search(rules[0]["search"])
    folder = check_place(settings[0])
    progress.doing("loading libraries")
    with importing():
        from runners.terminal.logs import log_to, new_log
        from tokensel.evaluation.provenance import scrub
        from tokensel.evaluation.search.outcome import outcome_of, test_plan
        from tokensel.evaluation.search.trials import Trials
        from tokensel.evaluation.sweep.computers import computers

    progress.doing("reading the questions")
    log = new_log(folder)
    with log_to(log):
        _log.info("started: %s", scrub(" ".join(sys.argv)))
        trials = Trials(settings[0], search, folder / VALIDATION, lambda points: _expect(points, progress))
        for job in rules:
            trials.add_rule(job)
        with computers(trials.plan, folder / VALIDATION, log) as make_computer:
            propose(command, conf, lambda jobs: _evaluate(trials, jobs, make_computer, progress))
    plan = test_plan(settings, trials)
    test = run_plan(plan, progress)
    outcome = outcome_of(trials, test.rows, test.points)
    summary = outcome.record() | {"failed": [*trials.failures(), *test.summary["failed"]], "results": str(folder)}
    data = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    write_whole(folder / SUMMARY, data.encode(), "output_dir")
    return Searched(test, outcome, summary)


def _evaluate(trials: "Trials", jobs: Jobs, make_computer: Any, progress: "SweepProgress") -> list[float]:
    values = trials.evaluate(jobs, make_computer, progress)
    for trial in trials.done[-len(jobs) :]:
        _log.info("trial %d: %s %s", trial.number, trial.accuracy, trial.error or trial.stages)
    return values


def _expect(points: "Sequence[PointWork]", progress: "SweepProgress") -> None:
    progress.expect(
        points=len(points),
        questions=max((point.missing for point in points), default=0),
        wanted=sum(point.missing for point in points),
        timed=0,
    )
