"""The settings under `search`: how long, on how many questions, and what one trial is."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tokensel.errors import TokenselError, as_typed, meant
from tokensel.evaluation.sweep.declaration import MOST, declaration, setting
from tokensel.evaluation.sweep.groups import Settings

MOST_STAGES = 3
_SHARE = "must be a number from 0 to 1"


class SearchSettings(Settings):
    """What is searched, and for how long. conf/search.yaml has the same keys and defaults.

    Raises pydantic's ValidationError; `read_search` turns it into a TokenselError.
    """

    trials: int = setting(30, "settings that are tried", "must be an integer from 1 to 10000", ge=1, le=10_000)
    at_once: int = setting(
        6,
        "trials that are proposed together, and answered in one pass",
        "must be an integer from 1 to 100",
        ge=1,
        le=100,
    )
    limit: int | None = setting(
        200, "validation questions of each trial", "must be an integer from 1, or null for all of them", ge=1, le=MOST
    )
    best: int = setting(
        3, "trials that the test sees, once, at the end", "must be an integer from 1 to 100", ge=1, le=100
    )
    seed: int = setting(0, "seed of the proposals", "must be an integer from 0 to 2147483647", ge=0, le=MOST)
    stages: int = setting(1, "stages of a trial", f"must be an integer from 1 to {MOST_STAGES}", ge=1, le=MOST_STAGES)
    depth_1: float | int = setting(
        0.5,
        "of the first stage, among the layers that can meet the budget: 0 the first, 1 the last",
        _SHARE,
        ge=0,
        le=1,
    )
    depth_2: float | int = setting(0.5, "of the second stage, among the layers behind the first", _SHARE, ge=0, le=1)
    depth_3: float | int = setting(0.5, "of the third stage, among the layers behind the second", _SHARE, ge=0, le=1)
    fall_1: float | int = setting(
        0.5, "how much of the fall of the count that is left the first stage does, in logarithms", _SHARE, ge=0, le=1
    )
    fall_2: float | int = setting(
        0.5, "the same of the second of three stages; the last does the rest", _SHARE, ge=0, le=1
    )

    @property
    def depths(self) -> tuple[float, ...]:
        """One for each stage."""
        return (self.depth_1, self.depth_2, self.depth_3)[: self.stages]

    @property
    def falls(self) -> tuple[float, ...]:
        """One for each stage but the last."""
        return (self.fall_1, self.fall_2)[: self.stages - 1]


def read_search(values: Mapping[str, Any]) -> SearchSettings:
    """The settings under `search`, checked. Raises TokenselError that names key, value and what is allowed."""
    try:
        return SearchSettings.model_validate(dict(values))
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        field = SearchSettings.model_fields.get(key)
        if field is None:
            keys = list(SearchSettings.model_fields)
            raise TokenselError(f"search.{key}: unknown key; keys are {', '.join(keys)}{meant(key, keys)}") from error
        raise TokenselError(f"search.{key}={as_typed(values[key])}: {declaration(field)['allowed']}") from error
