"""The sweep: what visual-token reduction costs in accuracy and saves in time, over a grid of settings.

    python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun
    python -m runners.sweep method=fps kept=16 method.start=peripheral agg_layer=4
    python -m runners.sweep data=easy_vqa method=tome kept=8,64 limit=null logger=none --multirun
    python -m runners.sweep method=my_method.py:MyMethod,fps kept=8,16 --multirun
    python -m runners.sweep experiment=quick

Ends with a table: each point's accuracy with its interval, compared with fastv and random at the same kept, the full
model and no image at all, beside measured speed-up, FLOPs and KV-cache bytes. The same figures are in summary.json, and
in a last line of JSON where standard output is no terminal (json=true or json=false decides it). Started again, it
computes only what is missing. Settings: --help, conf/sweep.yaml.
"""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.terminal.places import check_results
from runners.terminal.program import importing, start

if TYPE_CHECKING:
    from runners.configuration.compose import Command
    from runners.terminal.progress import SweepProgress
    from runners.wandb_logging.live import LiveRuns
    from tokensel.evaluation.sweep.plan import SweepPlan
    from tokensel.evaluation.sweep.rows import TableRow
    from tokensel.evaluation.sweep.work import GroupWork

CONF = Path(__file__).resolve().parent.parent / "conf"
SUMMARY = "summary.json"
# What a sweep writes to its folder, beside a folder per point.
FILES = ("results.parquet", SUMMARY, "accuracy.png")
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep with these arguments (default: the command line's). Returns the exit status.

    0: all points are complete. 1: some failed. 2: a mistake in the settings or the data. 130: interrupted.
    """
    with importing():
        from runners.configuration.compose import read_command
        from runners.configuration.errors import USER_ERRORS, one_line
    try:
        return _run(read_command(sys.argv[1:] if argv is None else argv))
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {one_line(error, CONF)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was computed is stored; the same command continues from there", file=sys.stderr)
        return 130


def _run(command: "Command") -> int:
    from runners.configuration.help import print_help

    if command.help:
        print_help(CONF)
        return 0
    if command.show:
        print_configuration(jobs_of(command))
        return 0
    from runners.terminal.progress import SweepProgress

    with warnings.catch_warnings():
        # One line, without the place in our code that raised it.
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        with SweepProgress("reading the settings") as progress:
            finished = run_sweep(jobs_of(command), progress)
        return report(finished, command.json)


def jobs_of(command: "Command") -> list[dict[str, Any]]:
    """The settings of each job of the grid, not checked yet. Loads the user's methods that the command names."""
    from runners.configuration.compose import compose_jobs
    from runners.configuration.methods import offer_methods

    return compose_jobs(replace(command, overrides=offer_methods(command.overrides, CONF)), CONF)


@dataclass(frozen=True)
class Finished:
    """What a sweep prints at its end. summary: the content of summary.json. log: this start's."""

    folder: Path
    log: Path
    rows: "list[TableRow]"
    summary: dict[str, Any]


def run_sweep(jobs: Sequence[Mapping[str, Any]], progress: "SweepProgress") -> Finished:
    """Runs a whole grid: plan, prepare, compute, write, log.

    jobs: the settings of each. Raises TokenselError for a mistake in the settings or the data, if possible before any
    model is loaded.
    """
    from tokensel.evaluation.sweep.reading import read_settings

    settings = [read_settings(job) for job in jobs]
    results = Path(settings[0].output_dir) / str(settings[0].name)
    check_results(results, FILES, "output_dir", settings[0].output_dir)
    progress.doing("loading libraries")
    with importing():
        from runners.terminal.logs import log_to, new_log
        from tokensel.evaluation.provenance import scrub
        from tokensel.evaluation.sweep.compute import compute
        from tokensel.evaluation.sweep.computers import computers
        from tokensel.evaluation.sweep.plan import make_plan
        from tokensel.evaluation.sweep.rows import folder_rows
        from tokensel.evaluation.sweep.work import prepare

    progress.doing("reading the questions")
    plan = make_plan(settings)
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
    return Finished(folder, log, rows, summary)


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


def report(finished: "Finished", json: bool | None) -> int:
    """Prints the table and the points that failed, and the summary as JSON if wanted. Returns the exit status."""
    from runners.terminal.output import print_record
    from runners.terminal.table import print_table

    print_table(finished.rows)
    for line in finished.summary["failed"]:
        print(f"failed: {line}", file=sys.stderr)
    if finished.summary["failed"]:
        print(f"Tracebacks are in {finished.log}", file=sys.stderr)
    folder = finished.folder
    print(f"Files in {folder}: {', '.join(FILES)}, logs")
    print(f"One page of it all: python -m runners.report {shlex.quote(str(folder))}")
    print_record(finished.summary, json)
    return 1 if finished.summary["failed"] else 0


def print_configuration(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Prints the first job's configuration as YAML, as --cfg job does in other Hydra programs."""
    import yaml

    print(yaml.safe_dump(dict(jobs[0]), sort_keys=False), end="")


if __name__ == "__main__":
    start(main)
