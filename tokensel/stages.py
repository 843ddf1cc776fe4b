"""A reduction as a list of stages: at which layer, how many, which, what they carry, how the sequence looks after."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokensel.errors import TokenselError
from tokensel.methods import Method, make_method

AGGREGATIONS = ("cross_attention", "mean", "none")
LAYOUTS = ("compact", "zero_fill", "mask")
POSITIONS = ("source", "front")


@dataclass(frozen=True)
class Stage:
    """One reduction step.

    layer: it acts on the hidden states that enter this decoder layer (0-based). kept: visual tokens that remain, at
    most; None only for methods that leave no choice. aggregation, layout, position: see `reduce_tokens`; None takes the
    method's default.

    Raises TokenselError for a value out of its range.
    """

    method: Method
    kept: int | None
    layer: int = 2
    temperature: float = 0.1
    aggregation: str | None = None
    layout: str = "compact"
    position: str | None = None

    def __post_init__(self) -> None:
        method = self.method
        self._default("aggregation", method.default_aggregation)
        self._default("position", method.default_position)
        if self.kept is None and method.fixed_kept is not None:
            object.__setattr__(self, "kept", method.fixed_kept)
        _check_choice("aggregation", self.aggregation, AGGREGATIONS)
        _check_choice("layout", self.layout, LAYOUTS)
        _check_choice("position", self.position, POSITIONS)
        _check_integer("agg_layer", self.layer, 0)
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise TokenselError(f"temperature={self.temperature}: must be a finite number above 0")
        if method.passes_through:
            return
        _check_integer("kept", self.kept, method.min_kept, f" for method {method.name!r}")
        if method.fixed_kept is not None and self.kept != method.fixed_kept:
            raise TokenselError(f"kept={self.kept}: method {method.name!r} allows only {method.fixed_kept}")

    def _default(self, field: str, value: str) -> None:
        if getattr(self, field) is None:
            object.__setattr__(self, field, value)


def _check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TokenselError(f"{key}={value!r}: choose from {', '.join(choices)}")


def _check_integer(key: str, value: object, least: int, context: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TokenselError(f"{key}={value!r}: must be an integer from {least}{context}")


def make_stages(
    method: str | Method,
    *,
    kept: int | Sequence[int] | None = None,
    agg_layer: int | Sequence[int] = 2,
    temperature: float = 0.1,
    aggregation: str | None = None,
    layout: str = "compact",
    position: str | None = None,
    num_layers: int | None = None,
    **method_options: Any,
) -> list[Stage]:
    """The stages that one setting means; kept and agg_layer may be sequences of the same length.

    num_layers: the decoder's, to check agg_layer against; agg_layer == num_layers reduces nothing.

    Raises TokenselError, naming key, value and what is allowed.
    """
    chosen = make_method(method, **method_options)
    layers = list(agg_layer) if isinstance(agg_layer, Sequence) else [agg_layer]
    counts = list(kept) if isinstance(kept, Sequence) else [kept] * len(layers)
    if len(counts) != len(layers) or not layers or isinstance(agg_layer, str) or isinstance(kept, str):
        raise TokenselError(f"kept={kept!r}, agg_layer={agg_layer!r}: must name as many kept as layers")
    stages = [
        Stage(chosen, count, layer, temperature, aggregation, layout, position)
        for count, layer in zip(counts, layers, strict=True)
    ]
    for earlier, later in itertools.pairwise(layers):
        if later <= earlier:
            raise TokenselError(f"agg_layer={layers}: layers of several stages must rise")
    if num_layers is not None and layers[-1] > num_layers:
        raise TokenselError(f"agg_layer={layers[-1]}: must be from 0 to {num_layers}, the model's number of layers")
    return stages
