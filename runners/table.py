"""Prints the table of a paper: methods in rows, benchmarks in columns, and the mean share of the full model's accuracy.

    python -m runners.table outputs/sweep
    python -m runners.table outputs/scienceqa outputs/pope --format latex --budget 64 > table.tex

    format      markdown (default), latex (for the package booktabs) or csv
    columns     what a column is: data (default), model or pool, which is everything that points must share
    budget      only points with this many kept visual tokens (64), this share (25%), or solved for this budget
                (average_tokens:64, flops:0.4); default: one block for each
    published   false leaves out the published figures of the same methods, which are marked as such
    output      write to this file instead of standard output

Each argument without a key is a sweep's folder, a folder of sweeps, a results.parquet or a glob. In each block, the
highest accuracy is bold and the second highest underlined (Markdown: italic), which says nothing of significance; what
is a control gets no mark. Seeds of one setting are one line: their mean ± their standard deviation. Keys may be written
as --format latex, --format=latex or format=latex.
"""

from collections.abc import Sequence
from pathlib import Path

from runners.terminal.arguments import read_arguments, without_dashes, write_whole
from runners.terminal.command import run_command
from runners.terminal.places import check_file
from runners.terminal.program import importing, start
from tokensel.errors import TokenselError

_KEYS = ("format", "rows", "columns", "budget", "published", "output")
_FORMATS = ("markdown", "latex", "csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table that these arguments describe (default: the command line's). Returns 0, or 2 for a mistake."""
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    sources, given = read_arguments(without_dashes(arguments), _KEYS)
    if not sources:
        raise TokenselError("results: give one or several folders of results, such as outputs/sweep")
    layout = given.get("format", "markdown")
    for key, value, allowed in (
        ("format", layout, _FORMATS),
        ("rows", given.get("rows", "method"), ("method",)),
        ("published", given.get("published", "true"), ("true", "false")),
    ):
        if value not in allowed:
            raise TokenselError(f"{key}={value}: choose from {', '.join(allowed)}")
    if "output" in given:
        check_file(Path(given["output"]))
    with importing():  # slow, and not needed to report the mistakes above
        from analysis import load_results
        from analysis.cache import refresh_caches
        from analysis.paper import paper_table
        from analysis.paper_blocks import read_block
        from analysis.paper_formats import as_csv, as_latex, as_markdown

    budget = read_block(given["budget"]) if "budget" in given else None
    table = paper_table(load_results(sources), given.get("columns", "data"), budget, given.get("published") != "false")
    formats = {"markdown": as_markdown, "latex": as_latex, "csv": as_csv}
    text = formats[layout](table)
    refresh_caches(sources)
    if "output" in given:
        write_whole(Path(given["output"]), text.encode())
    else:
        print(text, end="", flush=True)
    return 0


if __name__ == "__main__":
    start(main)
