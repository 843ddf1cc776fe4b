"""A sweep's results as one HTML page, which needs no network and can be sent to anyone.

    python -m runners.report outputs/sweep
    python -m runners.report outputs/sweep output=page.html pictures=1000

Findings in words, a table to sort, charts, the visual tokens that each method kept, every question with its answers,
and how it was run. Points of different models, questions or protocols are never shown together.

    output     the page; left out: report.html in the results' folder
    pictures   so many questions at most get a picture in the list (300), those that methods disagree on most

The argument is a sweep's folder, a folder of sweeps, a results.parquet or a glob. The last line of standard output is
one JSON object: path, bytes, points, complete, questions, pictures, seconds.
"""

import glob
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runners.terminal.arguments import read_arguments, read_integer, write_whole
from tokensel.errors import TokenselError

_KEYS = ("output", "pictures")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page of these arguments (default: the command line's). Returns 0, or 2 for a mistake in them."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    try:
        print(json.dumps(_write(arguments)), flush=True)
    except TokenselError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(arguments: Sequence[str]) -> dict[str, object]:
    began = time.perf_counter()
    sources, given = read_arguments(arguments, _KEYS)
    if len(sources) != 1:
        raise TokenselError(f"{' '.join(sources) or 'results'}: give one folder of results, outputs/sweep for one")
    pictures = read_integer(given, "pictures", default=300)
    path = _path(Path(sources[0]), given.get("output"))
    from analysis.report import build_report  # slow to import, and mistakes above need none of it

    report = build_report(sources[0], pictures=pictures)
    data = report.html.encode()
    write_whole(path, data)
    print(f"{report.complete} of {report.points} points are complete; {report.questions} questions. Open {path}")
    return {
        "path": str(path),
        "bytes": len(data),
        "points": report.points,
        "complete": report.complete,
        "questions": report.questions,
        "pictures": report.pictures,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _path(source: Path, output: str | None) -> Path:
    if output is not None:
        return Path(output)
    if source.is_dir():
        return source / "report.html"
    if source.is_file():
        return source.parent / "report.html"
    if glob.has_magic(str(source)):
        raise TokenselError(f"output: needed beside {source}, which is no folder; output=report.html for one")
    raise TokenselError(f"{source}: no such folder or file; give a folder of results, outputs/sweep for one")


if __name__ == "__main__":
    sys.exit(main())
