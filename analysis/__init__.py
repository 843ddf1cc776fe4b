"""Loads the results of sweeps into pandas frames, compares grid points question by question, and draws figures.

    from analysis import compare, load_predictions, load_results
    results = load_results("outputs/sweep")
    compare(results, load_predictions("outputs/sweep"), reference="fastv")

`analysis.figures` draws with matplotlib, for PDF and PNG. `analysis.interactive` draws the same figures with plotly,
for web pages. `analysis.tables` formats frames as text. `analysis.report` builds one HTML page. The notebooks in this
folder show how they work together.

Only runners/, notebooks and tests may import this package. It imports tokensel, never runners: it reads the files that
a sweep wrote, so results can be analysed on a machine that cannot run the sweep.
"""

from analysis.columns import pool_titles
from analysis.equal_cost import at_equal_cost
from analysis.literature import published
from analysis.needs import by_need
from analysis.paired import by_group, compare, flip_counts, flips
from analysis.predictions import load_predictions, questions_of
from analysis.ranking import ranking
from analysis.results import load_results

__all__ = [
    "at_equal_cost",
    "by_group",
    "by_need",
    "compare",
    "flip_counts",
    "flips",
    "load_predictions",
    "load_results",
    "pool_titles",
    "published",
    "questions_of",
    "ranking",
]
