"""The types of values that statistics take, and the check they share."""

from collections.abc import Sequence

import numpy as np

from tokensel.errors import TokenselError

Booleans = Sequence[bool] | np.ndarray
Numbers = Sequence[float] | np.ndarray


def check_share(name: str, value: float, allow_one: bool = False) -> None:
    """Raises TokenselError unless 0 < value < 1, or value is 1 and that is allowed."""
    if not (0 < value < 1 or (allow_one and value == 1)):
        raise TokenselError(f"{name}={value}: must lie between 0 and 1")
