"""How many visual tokens remain: a count, or a share of those that the pictures have."""

import math
from decimal import Decimal, InvalidOperation

from tokensel.errors import TokenselError

# A count is an int; a share is a float between 0 and 1, both excluded.
Kept = int | float


def read_kept(value: object, least: int = 0, context: str = "") -> Kept:
    """The kept that a user wrote: 64, or a share, as "25%" or 0.25.

    least: the smallest count allowed. context: words for the error message, such as " for method 'fps'".

    Raises TokenselError for a count below `least`, a share that is not above 0% and below 100%, and anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= least:
            return value
        raise TokenselError(f"kept={value}: must be an integer from {least}{context}")
    share = _percent(value) if isinstance(value, str) else value if isinstance(value, float) else None
    if share is None or not math.isfinite(share):
        allowed = f'an integer from {least}{context}, or a share such as "25%" or 0.25'
        raise TokenselError(f"kept={value!r}: must be {allowed}")
    if not 0 < share < 1:
        raise TokenselError(f"kept={value}: a share must lie above 0% and below 100%")
    return share


def count_of(kept: Kept, count: int, least: int = 1) -> int:
    """A kept as a count, where there are `count` visual tokens. A share is rounded to the nearest integer, halves up,
    and is at least `least`."""
    if isinstance(kept, int):
        return kept
    return max(least, math.floor(kept * count + 0.5 + 1e-9))


def kept_text(kept: Kept) -> str:
    """A kept as it is shown: "64" or "25%"."""
    return str(kept) if isinstance(kept, int) else f"{100 * kept:.10g}%"


def _percent(text: str) -> float | None:
    number = text.strip().removesuffix("%")
    try:
        # By decimals: 33.3 / 100 is not the float 0.333, and equal shares must be equal.
        return float(Decimal(number) / 100) if text.strip().endswith("%") else None
    except InvalidOperation:
        return None
