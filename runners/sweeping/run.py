"""One start of the sweep from its configs to its table: prepare, compute what is missing, log, report."""

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from tokensel.evaluation.sweep.compute import compute, lacking, note_failures
from tokensel.evaluation.sweep.plan import Plan, make_plan
from tokensel.evaluation.sweep.work import GroupWork, prepare
from runners.terminal.progress import SweepProgress
from runners.terminal.table import Result, as_frame, as_record, best_at_each_kept, caption, print_table


def run_sweep(configs: Sequence[DictConfig]) -> int:
    """Runs a whole grid and prints its table and its line of JSON. Returns 0, or 1 if points failed.

    Raises TokenselError for a mistake in the settings or the data, before any model is loaded where that is
    possible.
    """
    plan = make_plan(configs)
    folder = Path(plan.shared["output_dir"]) / str(plan.shared["name"])
    works = [prepare(group, folder, plan.shared["on_bad_sample"]) for group in plan.groups]
    todo = [point for work in works for point in lacking(work, plan)]
    if todo:
        timed = sum(point.needs_timing(plan.shared["latency"]) for point in todo)
        with SweepProgress(len(todo), sum(point.missing for point in todo), timed) as progress:
            for work in works:
                compute(work, plan, progress)
    from analysis.figures import accuracy_over_kept  # slow to import

    results = [result for work in works for result in work.results()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.parquet"
    frame = as_frame(results)
    frame.to_parquet(path)
    accuracy_over_kept(frame).savefig(folder / "accuracy.png", dpi=150)
    if plan.shared["logger"]["name"] == "wandb":
        from runners.wandb_logging.logger import log_sweep

        log_sweep(
            [point for work in works for point in work.points.values()],
            folder,
            plan.shared["logger"],
            str(plan.shared["name"]),
        )
    return _report(plan, works, results, path)


def _report(plan: Plan, works: list[GroupWork], results: list[Result], path: Path) -> int:
    print_table(results, caption(results))
    failed = note_failures(works)
    print(f"Files: {path}, accuracy.png and one folder per point beside it")
    print(f"One page of it all: python -m runners.report {path.parent}")
    line = {
        "sweep": plan.shared["name"],
        "points": [as_record(result, results) for result in results],
        "best": best_at_each_kept(results),
        "failed": failed,
        "results": str(path),
    }
    print(json.dumps(line, allow_nan=False), flush=True)
    return 1 if failed else 0
