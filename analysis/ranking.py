"""Which points of folders of results may be called the best, in sentences."""

from analysis.results import Source, stored_points
from tokensel.evaluation.sweep.ranking import sentences
from tokensel.evaluation.sweep.rows import table_rows


def ranking(source: Source) -> list[str]:
    """One sentence for each number of kept tokens, or for each share of the FLOPs where equal kept differ in cost.

    source: as in `load_results`. A point is called the best only if it is significantly ahead of every other one, with
    p corrected for all comparisons of its pool; those that are not significantly behind the most accurate one tie.

    Raises TokenselError if the source does not exist or a file is damaged.
    """
    return sentences(table_rows(stored_points(source)))
