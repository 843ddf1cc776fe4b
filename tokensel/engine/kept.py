"""How many visual tokens remain: a count, a share of those that the pictures have, or as many as cover the picture."""

import math
from decimal import Decimal, InvalidOperation

from tokensel.auto import Auto, read_auto
from tokensel.errors import TokenselError

# A count is an int; a share is a float between 0 and 1, both excluded; Auto: the picture decides.
Kept = int | float | Auto


def read_kept(value: object, least: int = 0, context: str = "") -> Kept:
    """The kept that a user wrote: 64; a share, as "25%" or 0.25; or "auto", see `tokensel.Auto`.

    least: the smallest count allowed. context: words for the error message, such as " for method 'fps'".

    An Auto that leaves no choice is the count that it means.

    Raises TokenselError for a count below `least`, a share that is not above 0% and below 100%, and anything else.
    """
    if isinstance(value, str) and value.strip().startswith("auto"):
        value = read_auto(value)
    if isinstance(value, Auto):
        value = value if value.max != value.min else value.min
    if isinstance(value, Auto):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= least:
            return value
        raise TokenselError(f"kept={value}: must be an integer from {least}{context}")
    share = _percent(value) if isinstance(value, str) else value if isinstance(value, float) else None
    if share is None or not math.isfinite(share):
        allowed = f'an integer from {least}{context}, a share such as "25%" or 0.25, or auto'
        raise TokenselError(f"kept={value!r}: must be {allowed}")
    if not 0 < share < 1:
        raise TokenselError(f"kept={value}: a share must lie above 0% and below 100%")
    return share


def count_of(kept: Kept, count: int, least: int = 1) -> int:
    """A kept as a count, where there are `count` visual tokens. A share is rounded to the nearest integer, halves up,
    and is at least `least`. Where the picture decides, the largest count that is possible."""
    if isinstance(kept, Auto):
        return count if kept.max is None else min(kept.max, count)
    if isinstance(kept, int):
        return kept
    return max(least, math.floor(kept * count + 0.5 + 1e-9))


def kept_text(kept: Kept) -> str:
    """A kept as it is shown: "64", "25%" or "auto:0.9"."""
    return f"{100 * kept:.10g}%" if isinstance(kept, float) else str(kept)


def _percent(text: str) -> float | None:
    number = text.strip().removesuffix("%")
    try:
        # By decimals: 33.3 / 100 is not the float 0.333, and equal shares must be equal.
        return float(Decimal(number) / 100) if text.strip().endswith("%") else None
    except InvalidOperation:
        return None
