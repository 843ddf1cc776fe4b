"""kept=auto: as many visual tokens as cover the picture.

Imports nothing but errors, so that a command can check it without loading torch.
"""

import re
from dataclasses import dataclass

from tokensel.errors import TokenselError

_FORM = re.compile(r"auto(?::(?P<coverage>\d*\.?\d+(?:e-?\d+)?))?(?::(?P<min>\d*)-(?P<max>\d*))?")
ALLOWED = "auto, auto:COVERAGE, auto:MIN-MAX or auto:COVERAGE:MIN-MAX, as auto:0.9:4-64"


@dataclass(frozen=True)
class Auto:
    """The smallest count that covers the picture: kept=Auto(0.9, min=4, max=64), or as text "auto:0.9:4-64".

    coverage: how much has to be covered, from 0 to 1; larger = more tokens. The method says what it is a share of; None
        = the method's own `default_coverage`.
    min, max: of the tokens that remain, at least 1; max None = all. Several pictures share both in proportion.

    Raises TokenselError for values out of their range.
    """

    coverage: float | None = None
    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        coverage = self.coverage
        if coverage is not None and (isinstance(coverage, bool | str) or not 0 <= coverage <= 1):
            raise TokenselError(f"kept=auto: coverage={coverage!r} must be from 0 to 1")
        for name, value in (("min", self.min), ("max", 1 if self.max is None else self.max)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TokenselError(f"kept=auto: {name}={value!r} must be an integer from 1")
        if self.max is not None and self.max < self.min:
            raise TokenselError(f"kept=auto: min={self.min} must not be above max={self.max}")

    def __str__(self) -> str:
        coverage = "" if self.coverage is None else f":{self.coverage:.10g}"
        limits = "" if self.min == 1 and self.max is None else f":{self.min}-{self.max or ''}"
        return f"auto{coverage}{limits}"


def read_auto(text: str) -> Auto:
    """Reads "auto", "auto:0.9", "auto:4-64" or "auto:0.9:4-64"; either limit may be left out: "auto:4-".

    Raises TokenselError for anything else.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise TokenselError(f"kept={text}: must be {ALLOWED}")
    coverage, least, most = found["coverage"], found["min"], found["max"]
    return Auto(float(coverage) if coverage else None, int(least or 1), int(most) if most else None)
