"""The sweep: what visual-token reduction costs in accuracy and saves in time, over a grid of settings.

    python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun
    python -m runners.sweep method=fps kept=16 method.start=peripheral agg_layer=4
    python -m runners.sweep data=easy_vqa method=tome kept=8,64 limit=null logger=none --multirun
    python -m runners.sweep method=my_method.py:MyMethod,fps kept=8,16 --multirun
    python -m runners.sweep experiment=quick

Ends with a table: each point's accuracy with its interval, compared with fastv and random at the same kept, the full
model and no image at all, beside measured speed-up, FLOPs and KV-cache bytes. The last line of standard output is one
JSON object with the same figures. Started again, it computes only what is missing. Settings: --help, conf/sweep.yaml.
"""

import gc
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.configuration.compose import compose_jobs, read_command
from runners.configuration.errors import USER_ERRORS, one_line
from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from tokensel.evaluation.sweep.plan import SweepPlan
    from tokensel.evaluation.sweep.results import TableRow
    from tokensel.evaluation.sweep.work import GroupWork

CONF = Path(__file__).resolve().parent.parent / "conf"
LOG = "sweep.log"
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep with these arguments (default: the command line's). Returns the exit status.

    0: all points are complete. 1: some failed. 2: a mistake in the settings or the data. 130: interrupted.
    """
    try:
        with _no_garbage_collection():
            from runners.configuration.help import print_help
            from runners.configuration.methods import offer_methods
        command = read_command(offer_methods(sys.argv[1:] if argv is None else argv, CONF))
        if command.help:
            print_help(CONF)
            return 0
        jobs = compose_jobs(command, CONF)
        if command.show:
            print_configuration(jobs)
            return 0
        with warnings.catch_warnings():
            # One line, without the place in our code that raised it.
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            return run_sweep(jobs)
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {one_line(error, CONF)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was computed is stored; the same command continues from there", file=sys.stderr)
        return 130


def run_sweep(jobs: Sequence[Mapping[str, Any]]) -> int:
    """Runs a whole grid: plan, prepare, compute, write, log, print. Returns 0, or 1 if points failed.

    jobs: the settings of each. Raises TokenselError for a mistake in the settings or the data, if possible before any
    model is loaded.
    """
    with _no_garbage_collection():
        from runners.terminal.logs import log_to
        from runners.terminal.progress import SweepProgress
        from tokensel.evaluation.provenance import scrub
        from tokensel.evaluation.sweep.compute import compute
        from tokensel.evaluation.sweep.plan import make_plan
        from tokensel.evaluation.sweep.reading import read_settings
        from tokensel.evaluation.sweep.results import table_rows
        from tokensel.evaluation.sweep.work import prepare

    plan = make_plan([read_settings(job) for job in jobs])
    folder = Path(plan.settings.output_dir) / str(plan.settings.name)
    check_folder(folder)
    with log_to(folder / LOG):
        works = prepare(plan, folder)
        open_points = [point for work in works for point in work.open_points]
        _log.info("started: %s", scrub(" ".join(sys.argv)))
        _log.info("%d points, %d to compute", sum(len(work.points) for work in works), len(open_points))
        if open_points:
            missing = sum(point.missing for point in open_points)
            timed = sum(point.lacks_times for point in open_points)
            with SweepProgress(len(open_points), missing, timed) as progress:
                for work in works:
                    compute(work, plan, progress)
        rows = table_rows(works)
        path = write_table(rows, folder)
        log_to_wandb(plan, works, folder)
        status = report(plan, works, rows, path)
        _log.info("ended with status %d", status)
    return status


def check_folder(folder: Path) -> None:
    """Checks that a sweep can write to this folder, and creates nothing that was not there. Raises TokenselError."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise TokenselError(f"output_dir={folder.parent}: cannot write to {folder} ({error.strerror})") from error
    finally:
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def write_table(rows: "Sequence[TableRow]", folder: Path) -> Path:
    """Writes results.parquet and accuracy.png. Returns the parquet's path."""
    from analysis.figures import accuracy_over_kept  # slow to import
    from analysis.frames import as_frame

    frame = as_frame(rows)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "results.parquet")
    accuracy_over_kept(frame).savefig(folder / "accuracy.png", dpi=150)
    return folder / "results.parquet"


def log_to_wandb(plan: "SweepPlan", works: "Sequence[GroupWork]", folder: Path) -> None:
    """Logs the points to W&B, if the settings choose it."""
    logger = plan.settings.logger
    if logger.name == "wandb":
        from runners.wandb_logging.logger import log_sweep

        points = [point for work in works for point in work.points.values()]
        log_sweep(points, folder, logger.options, str(plan.settings.name))


def report(plan: "SweepPlan", works: "Sequence[GroupWork]", rows: "Sequence[TableRow]", path: Path) -> int:
    """Prints the table, the points that failed, and one line of JSON. Returns the exit status."""
    from runners.terminal.table import caption, print_table
    from tokensel.evaluation.sweep.results import as_record, best_at_each_kept

    print_table(rows, caption(rows))
    failed = [
        f"{point.point.method} kept={point.point.kept} ({point.key}): {point.error}"
        for work in works
        for point in work.points.values()
        if point.error
    ]
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    print(f"Files: {path}, accuracy.png, {LOG} and one folder per point beside it")
    print(f"One page of it all: python -m runners.report {path.parent}")
    record = {
        "sweep": plan.settings.name,
        "points": [as_record(row, rows) for row in rows],
        "best": best_at_each_kept(rows),
        "failed": failed,
        "results": str(path),
    }
    print(json.dumps(record, allow_nan=False), flush=True)
    return 1 if failed else 0


def print_configuration(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Prints the first job's configuration as YAML, as --cfg job does in other Hydra programs."""
    import yaml

    print(yaml.safe_dump(dict(jobs[0]), sort_keys=False), end="")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """For imports: they make no garbage, and looking for it takes a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


if __name__ == "__main__":
    sys.exit(main())
