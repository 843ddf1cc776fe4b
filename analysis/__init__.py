"""Results of sweeps as pandas frames: loading, paired comparison, figures.

    from analysis import compare, load_predictions, load_results
    results = load_results("outputs/sweep")
    compare(results, load_predictions("outputs/sweep"), reference="fastv")

Figures for paper are in `analysis.figures`, the same ones for pages in `analysis.interactive`; the notebooks beside
this file show all of it at work.
"""

from analysis.literature import published
from analysis.paired import by_group, compare, flip_counts, flips
from analysis.predictions import load_predictions, questions_of
from analysis.results import load_results, pool_titles

__all__ = [
    "by_group",
    "compare",
    "flip_counts",
    "flips",
    "load_predictions",
    "load_results",
    "pool_titles",
    "published",
    "questions_of",
]
