"""How a written answer in free text is compared with the accepted ones.

A scorer takes what was written and the accepted answers, and returns the answer's share of being right, from 0 to 1.
"""

from collections.abc import Callable, Mapping, Sequence

Scorer = Callable[[str, Sequence[str]], float]


def exact(written: str, answers: Sequence[str]) -> float:
    """1.0 if the text is an accepted answer, apart from case, surrounding white space and a final full stop."""
    said = written.strip().rstrip(".").casefold()
    return float(any(said == answer.strip().rstrip(".").casefold() for answer in answers))


#: By name.
SCORERS: Mapping[str, Scorer] = {"exact": exact}
