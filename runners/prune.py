"""Removes grid points from a sweep's folder, which otherwise only grows.

    python -m runners.prune outputs/sweep --where method=dart
    python -m runners.prune outputs/sweep --where method=fps kept=8,16 --dry-run
    python -m runners.prune outputs/sweep --where superseded=true --yes

    where      conditions on the columns of `analysis.load_results`, all of which a point must meet; several values of
               one are separated by commas. Often: method, kept, seed, agg_layer, data, n, status (complete, failed,
               unfinished), superseded (true: there is a newer point of the same settings, of other code)
    dry-run    lists the points and removes nothing
    yes        removes without asking

The points' folders are deleted with all their predictions, and results.parquet is written again. Where standard output
is no terminal, or with json=true, the last line is one JSON object: folder, points (their keys), removed.
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runners.terminal.arguments import read_arguments
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.program import importing, start
from tokensel.errors import TokenselError

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_FLAGS = ("--dry-run", "--yes")


def main(argv: Sequence[str] | None = None) -> int:
    """Removes the points that these arguments name (default: the command line's). Returns 0; 1 if the answer was no;
    2 for a mistake."""
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    flags = [each for each in arguments if each in _FLAGS]
    others = [each.removeprefix("--where=") for each in arguments if each not in (*_FLAGS, "--where")]
    plain, where = read_arguments(others, (), ("",))
    if len(plain) != 1:
        raise TokenselError(f"{' '.join(plain) or 'no folder'}: give one sweep's folder, such as outputs/sweep")
    if not where:
        raise TokenselError("where: missing; give a condition, such as --where method=dart")
    folder = Path(plain[0])
    points = _matching(folder, where)
    dry = "--dry-run" in flags
    _list(folder, points)
    if not points.empty and not dry:
        if "--yes" not in flags and not _agreed(len(points)):
            print("nothing was removed", file=sys.stderr)
            return 1
        _remove(folder, list(points["folder"]))
    removed = not dry and not points.empty
    if removed:
        print(f"{len(points)} removed")
    print_record({"folder": str(folder), "points": list(points["key"]), "removed": removed}, wanted)
    return 0


def _matching(folder: Path, where: dict[str, str]) -> "pd.DataFrame":
    """The rows of the folder's points that meet every condition."""
    if not os.path.isdir(folder):
        raise TokenselError(f"{folder}: no such folder; give a sweep's folder, such as outputs/sweep")
    with importing():
        from analysis import load_results
        from tokensel.evaluation.stored import is_point
    if not any(is_point(each) for each in folder.iterdir()):
        raise TokenselError(f"{folder}: holds no grid point; give a sweep's folder, such as outputs/sweep")

    points = load_results(folder, each_seed=True)
    for name, wanted in where.items():
        column = name if name in points.columns else f"method.{name}"
        if column not in points.columns:
            known = ", ".join(each for each in points.columns if points[each].notna().any())
            raise TokenselError(f"{name}={wanted}: unknown column; choose from {known}")
        values = {value.strip() for value in wanted.split(",")}
        points = points[[_text(value) in values for value in points[column]]]
    return points


def _text(value: object) -> str:
    """A value of a frame as it is typed: null, true, 8, 0.1, fps."""
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return "null"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) or str(value) in ("True", "False") else str(value)


def _list(folder: Path, points: "pd.DataFrame") -> None:
    if points.empty:
        print(f"{folder}: no point meets these conditions")
    for row in points.to_dict("records"):
        names = ("kept", "agg_layer", "seed", "n", "status")
        words = " ".join(f"{name}={text}" for name in names if (text := _text(row[name])) != "null")
        print(f"{row['key']}  {row['method']} {words}")


def _agreed(count: int) -> bool:
    """Asks. Raises TokenselError where nobody can answer."""
    if not sys.stdin.isatty():
        raise TokenselError("yes: missing; standard input is no terminal, so add --yes to remove these points")
    points = f"{count} point{'s' if count > 1 else ''}"
    return input(f"Remove {points} with all predictions? [y/N] ").strip().lower() in ("y", "yes")


def _remove(folder: Path, points: Sequence[str]) -> None:
    """Deletes the points' folders. Raises TokenselError if a process is writing to one, or one is not writable; all are
    left then."""
    from tokensel.evaluation.clearing import remove_points
    from tokensel.evaluation.store import PointStore

    remove_points([PointStore(point) for point in points])
    try:
        _renew_caches(folder)
    except TokenselError as error:  # of a full disk, say; whatever reads the folder next sees that they are old
        _log.warning("%s", error)


def _renew_caches(folder: Path) -> None:
    """Writes results.parquet and accuracy.png of the points that are left, or deletes both if none is."""
    from analysis.cache import FIGURE, NAME, write_cache
    from tokensel.evaluation.clearing import deleting
    from tokensel.evaluation.sweep.rows import folder_rows

    rows = folder_rows(folder)
    if rows:
        write_cache(rows, folder)
        return
    for path in (folder / NAME, folder / FIGURE):
        with deleting(path):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    start(main)
