"""The arguments of `runners.train_aggregator`. Mistakes are found before torch is loaded where that is possible."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.terminal.arguments import read_arguments, read_flag, read_integer, read_items, read_value
from tokensel.errors import TokenselError, check_choice

if TYPE_CHECKING:
    from tokensel.evaluation.grid_point import GridPoint
    from tokensel.training.matching import TrainingPlan

KEYS = (
    *("method", "kept", "agg_layer", "temperature", "position", "model", "data", "train_split", "validation_split"),
    *("limit", "validation_limit", "steps", "batch_size", "learning_rate", "warmup", "seed", "rank", "heads", "target"),
    *("hidden_weight", "hidden_layer", "evaluate_every", "patience", "output_dir", "fresh", "logger"),
)
# Of these the model or the training does not depend: they are no part of the command that a file states.
_ABOUT_THE_RUN = ("output_dir", "fresh", "logger")
_LOGGERS = ("none", "wandb")
_COUNTS = {
    "steps": 1,
    "batch_size": 1,
    "warmup": 0,
    "seed": 0,
    "rank": 1,
    "heads": 1,
    "evaluate_every": 1,
    "patience": 1,
}


@dataclass(frozen=True)
class Request:
    """What to train, on what, and where to.

    given: the arguments as they were typed. data: its name and options without the split; splits: of training and
    validation; limits: of their questions, None: all.
    """

    given: Mapping[str, str]
    plan: TrainingPlan
    points: Sequence[GridPoint]
    data: str
    options: Mapping[str, Any]
    splits: tuple[str | None, str | None]
    limits: tuple[int | None, int | None]
    folder: Path
    fresh: bool
    logger: str

    @property
    def command(self) -> str:
        """The command that trains the same again."""
        typed = [f"{key}={text}" for key, text in self.given.items() if key not in _ABOUT_THE_RUN]
        return " ".join(["python -m runners.train_aggregator", *typed])


def read_request(arguments: Sequence[str]) -> Request:
    """Reads KEY=VALUE arguments. Raises TokenselError, which names key, value and what is allowed."""
    plain, given = read_arguments(arguments, KEYS, ("method.", "model.", "data."))
    if plain:
        raise TokenselError(f"{plain[0]}: must be KEY=VALUE; keys are {', '.join(KEYS)}, method.OPTION, data.OPTION")
    counts = {name: read_integer(given, name, -1, least) for name, least in _COUNTS.items() if name in given}
    numbers: dict[str, float] = {
        name: _number(given, name) for name in ("learning_rate", "hidden_weight") if name in given
    }
    if numbers.get("learning_rate") == 0:
        raise TokenselError("learning_rate=0: must be above 0")
    check_choice("logger", given.get("logger", "none"), _LOGGERS)
    splits = _split(given, "train_split"), _split(given, "validation_split")
    if (splits[0] is None) != (splits[1] is None):
        raise TokenselError("train_split, validation_split: null for both, or for none")
    limits = _limit(given, "limit", None), _limit(given, "validation_limit", 600)
    fresh = bool(read_flag(given, "fresh", False))
    folder = Path(os.path.expanduser(given.get("output_dir", "outputs/train_aggregator")))
    plan = _plan(given, counts, numbers)
    options = {key.removeprefix("data."): read_value(text) for key, text in given.items() if key.startswith("data.")}
    if "split" in options:
        raise TokenselError(f"data.split={options['split']}: give train_split and validation_split")
    points = _points(given)
    last = points[0].stages()[-1].layer
    if plan.hidden_weight and (plan.hidden_layer or 0) <= last:
        raise TokenselError(f"hidden_layer={plan.hidden_layer}: must lie above agg_layer={last} with hidden_weight")
    data = given.get("data", "diagrams")
    return Request(
        given,
        plan,
        points,
        data,
        options,
        splits,
        limits,
        folder,
        fresh,
        given.get("logger", "none"),
    )


def _plan(given: Mapping[str, str], counts: Mapping[str, int], numbers: Mapping[str, float]) -> TrainingPlan:
    from tokensel.training.matching import TARGETS, TrainingPlan

    check_choice("target", given.get("target", TARGETS[0]), TARGETS)
    known = {field.name for field in fields(TrainingPlan)}
    values: dict[str, Any] = {**counts, **numbers} | {key: given[key] for key in ("target",) if key in given}
    if "hidden_layer" in given:
        values["hidden_layer"] = read_integer(given, "hidden_layer", 0, 1)
    return TrainingPlan(**{key: value for key, value in values.items() if key in known})


def _points(given: Mapping[str, str]) -> list[GridPoint]:
    """One for each kept, with plain cross-attention."""
    from tokensel.evaluation.grid_point import GridPoint
    from tokensel.evaluation.sweep.plan import options_as_typed
    from tokensel.methods import find_method

    options = {
        key.removeprefix("method."): read_value(text) for key, text in given.items() if key.startswith("method.")
    }
    method = find_method(given.get("method", "fps"))
    if method.returns_values or not method.takes_kept() or method.changes_picture:
        raise TokenselError(
            f"method={method.name}: leaves nothing to aggregate; choose one that selects tokens, as fps"
        )
    shared: dict[str, Any] = {"aggregation": "cross_attention"}
    shared["agg_layer"] = read_value(given.get("agg_layer", "2"))
    shared["temperature"] = read_value(given.get("temperature", "0.1"))
    if given.get("position", "null") not in ("null", ""):
        shared["position"] = given["position"]
    elif method.default_aggregation == "none":
        shared["position"] = "front"  # as for the methods that aggregate by default
    with options_as_typed(options):
        return [
            GridPoint(method.name, read_value(kept), method_options=options, **shared)
            for kept in read_items(given, "kept", "8,16")
        ]


def _number(given: Mapping[str, str], key: str) -> float:
    try:
        number = float(given[key])
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise TokenselError(f"{key}={given[key]}: must be a finite number from 0")
    return number


def _split(given: Mapping[str, str], key: str) -> str | None:
    value = given.get(key, key.removesuffix("_split"))
    if value == "test":
        raise TokenselError(f"{key}=test: the test split is for the figures alone; choose another")
    return None if value == "null" else value


def _limit(given: Mapping[str, str], key: str, default: int | None) -> int | None:
    if given.get(key, "null" if default is None else "") == "null":
        return None
    return read_integer(given, key, default or 0, 1)
