"""How certain a figure is, and whether two methods really differ on the same questions.

Accuracies, shares and confidence levels are fractions from 0 to 1. Correct answers are bool arrays [n], one entry per
question, or where answers are right in part float arrays of shares from 0 to 1.
"""

from tokensel.evaluation.statistics.best_of import BestOf, best_of
from tokensel.evaluation.statistics.bootstrap import Estimate, bootstrap_interval, bootstrap_ratio
from tokensel.evaluation.statistics.intervals import (
    ClusteredAccuracy,
    SeedSpread,
    clustered_interval,
    clustered_standard_error,
    seed_spread,
    share_interval,
    wilson_interval,
)
from tokensel.evaluation.statistics.paired_tests import (
    McNemar,
    holm,
    mcnemar_against,
    mcnemar_exact,
    minimum_detectable_difference,
)
from tokensel.evaluation.statistics.seeds import (
    SeededAccuracy,
    SeededDifference,
    compare_seeds,
    is_whole,
    seeded_accuracy,
)

__all__ = [
    "BestOf",
    "ClusteredAccuracy",
    "Estimate",
    "McNemar",
    "SeedSpread",
    "SeededAccuracy",
    "SeededDifference",
    "best_of",
    "bootstrap_interval",
    "bootstrap_ratio",
    "clustered_interval",
    "clustered_standard_error",
    "compare_seeds",
    "holm",
    "is_whole",
    "mcnemar_against",
    "mcnemar_exact",
    "minimum_detectable_difference",
    "seed_spread",
    "seeded_accuracy",
    "share_interval",
    "wilson_interval",
]
