"""Which of several methods may be called the best on the same questions, given that the best was looked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokensel.errors import TokenselError
from tokensel.evaluation.statistics.seeds import compare_seeds

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class BestOf:
    """Candidates by falling accuracy.

    order         the candidates' places in what was given, the most accurate first
    accuracies    in that order, means over seeds
    p_corrected   of each one's comparison with the most accurate, in that order; the first is 1
    comparisons   by which the p-values were multiplied
    """

    order: list[int]
    accuracies: list[float]
    p_corrected: list[float]
    comparisons: int

    @property
    def tied(self) -> list[int]:
        """Those that may be the best: the most accurate, and all that are not significantly behind it."""
        return [place for place, p in zip(self.order, self.p_corrected, strict=True) if p >= SIGNIFICANT]


def best_of(answers: Sequence[np.ndarray], comparisons: int | None = None) -> BestOf:
    """Ranks candidates, and compares each with the most accurate one.

    answers: for each candidate a bool array [seeds, n], the same questions in all. comparisons: how many are made in
    all, if there are more groups of candidates than this one; None: the number of candidates less 1. On equal accuracy
    the order given stays.

    The p-values of `compare_seeds` are multiplied by `comparisons`. With probability 0.95 the truly best candidate is
    then among those tied, although the most accurate was chosen on these questions: it is left out only if some other
    one beats it wrongly, and there are (candidates - 1) of these.
    Source: subset selection, Gupta 1965; multiple comparisons with the best, Hsu 1996.

    Raises TokenselError if there is no candidate.
    """
    if not answers:
        raise TokenselError("best_of: needs one candidate or more")
    accuracies = [float(np.mean(each)) for each in answers]
    order = sorted(range(len(answers)), key=lambda place: -round(accuracies[place], 12))
    count = max(1, len(answers) - 1 if comparisons is None else comparisons)
    found = [min(1.0, count * compare_seeds(answers[order[0]], answers[place]).p_value) for place in order[1:]]
    return BestOf(order, [accuracies[place] for place in order], [1.0, *found], count)
