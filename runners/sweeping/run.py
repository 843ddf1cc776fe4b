"""Runs a planned sweep: prepare, compute, write, log. Commands that do so share it."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.terminal.places import check_results
from runners.terminal.program import importing

if TYPE_CHECKING:
    from runners.terminal.progress import SweepProgress
    from runners.wandb_logging.live import LiveRuns
    from tokensel.evaluation.grid_point import GridPoint
    from tokensel.evaluation.sweep.plan import SweepPlan
    from tokensel.evaluation.sweep.rows import TableRow
    from tokensel.evaluation.sweep.settings import SweepSettings
    from tokensel.evaluation.sweep.work import GroupWork

SUMMARY = "summary.json"
# What a sweep writes to its folder, beside a folder per point.
FILES = ("results.parquet", SUMMARY, "accuracy.png")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What a sweep prints at its end. summary: the content of summary.json. log: this start's. points: those that it
    asked for, by key."""

    folder: Path
    log: Path
    rows: "list[TableRow]"
    summary: dict[str, Any]
    points: "dict[str, GridPoint]"


def run_sweep(jobs: Sequence[Mapping[str, Any]], progress: "SweepProgress") -> Finished:
    """Runs a whole grid: plan, prepare, compute, write, log.

    jobs: the settings of each. Raises TokenselError for a mistake in the settings or the data, if possible before any
    model is loaded.
    """
    from tokensel.evaluation.sweep.reading import read_settings

    settings = [read_settings(job) for job in jobs]
    check_place(settings[0])
    progress.doing("loading libraries")
    with importing():
        from tokensel.evaluation.sweep.plan import make_plan

    progress.doing("reading the questions")
    return run_plan(make_plan(settings), progress)


def check_place(settings: "SweepSettings") -> Path:
    """The folder for a sweep's results. Raises TokenselError if it cannot be written."""
    folder = Path(settings.output_dir) / str(settings.name)
    check_results(folder, FILES, "output_dir", settings.output_dir)
    return folder


def run_plan(plan: "SweepPlan", progress: "SweepProgress") -> Finished:
    """Runs what was planned: prepare, compute, write, log. Raises as `run_sweep` does."""
    with importing():
        from runners.terminal.logs import log_to, new_log
        from tokensel.evaluation.provenance import scrub
        from tokensel.evaluation.sweep.compute import compute
        from tokensel.evaluation.sweep.computers import computers
        from tokensel.evaluation.sweep.rows import folder_rows
        from tokensel.evaluation.sweep.work import prepare

    folder = Path(plan.settings.output_dir) / str(plan.settings.name)
    log = new_log(folder)
    with log_to(log):
        works = prepare(plan, folder)
        open_points = [point for work in works for point in work.open_points]
        _log.info("started: %s", scrub(" ".join(sys.argv)))
        _log.info("%d points, %d to compute", sum(len(work.points) for work in works), len(open_points))
        live = live_runs(plan, works, folder)
        if open_points:
            progress.expect(
                points=len(open_points),
                questions=sum(max((point.missing for point in work.open_points), default=0) for work in works),
                wanted=sum(point.missing for point in open_points),
                timed=sum(point.lacks_times for point in open_points),
            )
            with live, computers(plan, folder, log) as make_computer:
                for work in works:
                    compute(work, plan, progress, make_computer(work, progress))
        progress.doing("writing the results", counted=False)
        rows = folder_rows(folder)
        write_table(rows, folder)
        summary = write_summary(plan, works, rows, folder)
        log_to_wandb(plan, works, folder, live)
        _log.info("ended with status %d", 1 if summary["failed"] else 0)
    points = {key: point.point for work in works for key, point in work.points.items()}
    return Finished(folder, log, rows, summary, points)


def write_table(rows: "Sequence[TableRow]", folder: Path) -> Path:
    """Writes results.parquet and accuracy.png. Returns the parquet's path."""
    from analysis.cache import write_cache  # slow to import

    return write_cache(rows, folder)


def live_runs(plan: "SweepPlan", works: "Sequence[GroupWork]", folder: Path) -> "LiveRuns | nullcontext[None]":
    """The W&B runs of the open points, which begin and end with the block; nothing if the settings choose no W&B."""
    if plan.settings.logger.name != "wandb":
        return nullcontext()
    from runners.wandb_logging.live import runs_of

    return runs_of(plan, works, folder)


def log_to_wandb(
    plan: "SweepPlan", works: "Sequence[GroupWork]", folder: Path, live: "LiveRuns | nullcontext[None]"
) -> None:
    """Logs the finished points to W&B, if the settings choose it. live: as `live_runs` gave it."""
    if not isinstance(live, nullcontext):
        from runners.wandb_logging.logger import log_sweep

        points = [point for work in works for point in work.points.values()]
        log_sweep(points, folder, plan.settings.logger.options, str(plan.settings.name), live=live)


def write_summary(
    plan: "SweepPlan", works: "Sequence[GroupWork]", rows: "Sequence[TableRow]", folder: Path
) -> dict[str, Any]:
    """Writes summary.json: the table's figures, the best points, and those that failed. Returns its content."""
    import json

    from runners.terminal.arguments import write_whole
    from tokensel.evaluation.sweep.ranking import best_records
    from tokensel.evaluation.sweep.results import as_record

    failed = [
        f"{point.point.method} kept={point.point.kept} ({point.key}): {point.error}"
        for work in works
        for point in work.points.values()
        if point.error
    ]
    record = {
        "sweep": plan.settings.name,
        "points": [as_record(row, rows) for row in rows],
        "best": best_records(rows),
        "failed": failed,
        "results": str(folder / "results.parquet"),
    }
    write_whole(folder / SUMMARY, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(), "output_dir")
    return record
