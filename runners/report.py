"""Writes a sweep's results as one HTML page, which needs no network and can be sent to anyone.

    python -m runners.report outputs/sweep
    python -m runners.report outputs/sweep output=page.html pictures=1000
    python -m runners.report outputs/scienceqa outputs/pope output=both.html

The page has the result in a sentence, accuracy over cost and the best points; then findings, a sortable table, charts,
the visual tokens that each method kept, every question with its answers, and the settings of the run. Points of
different models, data sets or protocols are never mixed.

    output     the page; default: report.html in the results' folder; several folders need it
    pictures   how many questions in the list have a picture (300); those on which methods disagree most come first

Each argument without a key is a sweep's folder, a folder of sweeps, a results.parquet or a glob; a point in several
folders is shown once. Where standard output is no terminal, or with json=true, the last line is one JSON object: path,
bytes, points, complete, questions, pictures, seconds.
"""

import glob
import os
import time
from collections.abc import Sequence
from pathlib import Path

from runners.terminal.arguments import read_arguments, read_integer, write_whole
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_file
from runners.terminal.program import importing, start
from tokensel.errors import TokenselError

_KEYS = ("output", "pictures")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page that these arguments describe (default: the command line's). Returns 0, or 2 for a mistake."""
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    began = time.perf_counter()
    sources, given = read_arguments(arguments, _KEYS)
    if not sources:
        raise TokenselError("results: give one or several folders of results, such as outputs/sweep")
    pictures = read_integer(given, "pictures", default=300)
    path = _page_path(sources, given.get("output"))
    check_file(path)
    with importing():  # slow, and not needed to report the mistakes above
        from analysis.cache import refresh_caches
        from analysis.report import build_report

    report = build_report(sources, pictures=pictures)
    refresh_caches(sources)
    data = report.html.encode()
    write_whole(path, data)
    print(f"{report.complete} of {report.points} points are complete; {report.questions} questions. Open {path}")
    line = {
        "path": str(path),
        "bytes": len(data),
        "points": report.points,
        "complete": report.complete,
        "questions": report.questions,
        "pictures": report.pictures,
        "seconds": round(time.perf_counter() - began, 3),
    }
    print_record(line, wanted)
    return 0


def _page_path(sources: Sequence[str], output: str | None) -> Path:
    for each in sources:
        if not os.path.exists(each) and not glob.has_magic(each):
            raise TokenselError(f"{each}: no such folder or file; give a folder of results, such as outputs/sweep")
    if output is not None:
        return Path(output)
    if len(sources) > 1:
        raise TokenselError("output: missing; several folders need a name for their page, such as output=report.html")
    source = Path(sources[0])
    if os.path.isdir(source):
        return source / "report.html"
    if os.path.isfile(source):
        return source.parent / "report.html"
    raise TokenselError(f"output: missing; {source} is a glob, so name the page, such as output=report.html")


if __name__ == "__main__":
    start(main)
