"""A reduction as a list of stages. A stage says where it acts, how many tokens it keeps, by which method, and how."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokensel.auto import Auto
from tokensel.choices import (
    AGGREGATIONS,
    LARGEST_TEMPERATURE,
    LAYOUTS,
    LEAST_TEMPERATURE,
    POSITIONS,
    PRECISIONS,
    SCOPES,
)
from tokensel.engine.checks import check_integer, check_one_of, check_repeated, check_selection
from tokensel.engine.kept import Kept, count_of, kept_text, read_kept
from tokensel.engine.precision import in_precision
from tokensel.engine.ties import TieWatch
from tokensel.errors import TokenselError
from tokensel.methods import METHODS, Context, Method, NoImage, Selection, make_method
from tokensel.training.aggregator import LearnedAggregator, load_aggregator

# Default layers are those of the papers' decoders, which have this many; shallower decoders scale them down.
USUAL_DEPTH = 32


@dataclass(frozen=True)
class Stage:
    """One reduction step.

    layer: it acts on the hidden states that enter this decoder layer (0-based). kept: visual tokens that remain: a
    count; a share as "25%" or 0.25 (stored as 0.25) of those that the pictures had before any reduction; or "auto"
    (stored as Auto), as many as cover the picture; None only for methods that leave no choice. aggregation, layout,
    position: see `reduce_tokens`; None takes the method's default. index, of: which of how many stages this is;
    scheduled: kept is what remains after the last of them, and the method says how many after this one. precision: in
    which the method computes, see `tokensel.engine.precision`. scope: of a video, all frames together ("video") or each
    by itself ("frame"). watch: finds choices that hang on a tie. asks_twice: every choice is made twice, and must be
    the same. aggregator: of aggregation="learned", a file or a module; stored as a module.

    Raises TokenselError for a value out of its range.
    """

    method: Method
    kept: Kept | None
    layer: int = 2
    temperature: float = 0.1
    aggregation: str | None = None
    layout: str = "compact"
    position: str | None = None
    index: int = 0
    of: int = 1
    scheduled: bool = False
    precision: str = "float32"
    scope: str = "video"
    watch: TieWatch | None = field(default=None, compare=False, repr=False)
    asks_twice: bool = field(default=False, compare=False, repr=False)
    aggregator: LearnedAggregator | str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        method = self.method
        self._default("aggregation", method.default_aggregation)
        closes_up = method.default_position == "renumber"
        fitting = {"zero_fill": "front" if closes_up else method.default_position, "mask": "source"}
        self._default("position", fitting.get(self.layout, method.default_position))
        if self.kept is None and method.fixed_kept is not None:
            object.__setattr__(self, "kept", method.fixed_kept)
        check_one_of("aggregation", self.aggregation, AGGREGATIONS)
        if self.aggregation == "learned":
            object.__setattr__(self, "aggregator", load_aggregator(self.aggregator))
        elif self.aggregator is not None:
            raise TokenselError(f"aggregator: is of aggregation='learned', not {self.aggregation!r}; leave it out")
        check_one_of("layout", self.layout, LAYOUTS)
        check_one_of("position", self.position, POSITIONS)
        check_one_of("precision", self.precision, PRECISIONS)
        check_one_of("scope", self.scope, SCOPES)
        check_integer("agg_layer", self.layer, 0)
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not LEAST_TEMPERATURE <= self.temperature <= LARGEST_TEMPERATURE:
            raise TokenselError(
                f"temperature={self.temperature}: must be a finite number above 0 that float32 can hold"
            )
        self._check_combination()
        if not method.takes_kept() and method.passes_through:
            return
        kept = read_kept(self.kept, method.min_kept, f" for method {method.name!r}")
        if isinstance(kept, Auto):
            kept = self._without_defaults(kept)
        object.__setattr__(self, "kept", kept)
        if method.fixed_kept is not None and kept != method.fixed_kept:
            raise TokenselError(f"kept={kept_text(kept)}: method {method.name!r} allows only {method.fixed_kept}")

    def _without_defaults(self, auto: Auto) -> Auto:
        """Auto in its one form: without a coverage that is the method's own.

        Raises TokenselError unless the method adapts.
        """
        method = self.method
        if not method.adapts():
            others = ", ".join(sorted(name for name, kind in METHODS.items() if kind.adapts()))
            raise TokenselError(f"kept={auto}: method {method.name!r} has no order of choice; use one of {others}")
        if auto.min < method.min_kept:
            raise TokenselError(f"kept={auto}: min must be at least {method.min_kept} for method {method.name!r}")
        return replace(auto, coverage=None) if auto.coverage == method.default_coverage else auto

    def _check_combination(self) -> None:
        method = self.method
        if method.only_layer is not None and self.layer != method.only_layer and not method.passes_through:
            raise TokenselError(f"agg_layer={self.layer}: method {method.name!r} works at {method.only_layer} only")
        if method.returns_values and self.aggregation != "none":
            raise TokenselError(
                f"aggregation={self.aggregation!r}: method {method.name!r} aggregates by itself; allowed is 'none'"
            )
        if self.layout == "mask" and (self.aggregation != "none" or method.returns_values):
            raise TokenselError(
                f"layout='mask': the survivors keep their own states, but method {method.name!r} with "
                f"aggregation={self.aggregation!r} changes them; use compact or zero_fill"
                + ("" if method.returns_values else ", or aggregation=none")
            )
        if self.position == "renumber" and self.layout != "compact":
            raise TokenselError(f"position='renumber': needs layout='compact', not {self.layout!r}")
        if self.position == "front" and self.layout == "mask":
            raise TokenselError("position='front': layout='mask' leaves every token in its place; use source")

    @property
    def learned(self) -> LearnedAggregator | None:
        """The aggregator of aggregation="learned"."""
        return self.aggregator if isinstance(self.aggregator, LearnedAggregator) else None

    def acts(self, num_layers: int) -> bool:
        """Whether it can remove anything in a decoder of that depth."""
        return self.layer < num_layers and not self.method.passes_through

    @property
    def auto(self) -> Auto | None:
        """How the picture decides how many remain, with the coverage that is asked for; None: kept is a number."""
        if not isinstance(self.kept, Auto):
            return None
        return (
            self.kept if self.kept.coverage is not None else replace(self.kept, coverage=self.method.default_coverage)
        )

    def remaining(self, kept: int, count: int) -> int | None:
        """`Method.remaining` of this stage; None where the picture decides."""
        return None if self.auto else self.method.remaining(kept, count, self.layer, self.index)

    def stays(self, count: int, original: int) -> bool:
        """Whether `count` visual tokens, of `original` before any reduction, stay as they are."""
        if self.auto is not None:
            return count <= self.auto.min
        return count == 0 or self.kept_of(original) >= (original if self.method.decides_count() else count)

    def kept_of(self, count: int) -> int:
        """How many of a prompt's `count` visual tokens, as they were before any reduction, remain after this stage; at
        most, where the picture decides.

        Where the method's options decide that, a number that changes nothing.
        """
        if self.method.decides_count():
            return max(0, count - 1)
        assert self.kept is not None
        kept = count_of(self.kept, count, max(1, self.method.min_kept))
        if not self.scheduled or kept >= count or self.auto:
            return kept
        return self.method.schedule(kept, count, self.of)[self.index]

    @property
    def weighs(self) -> bool:
        """Whether a later stage needs to know how many tokens each survivor stands for."""
        return self.aggregation != "none" and self.index + 1 < self.of

    def select(self, context: Context) -> Selection:
        """The method's choice. Raises TokenselError for one that cannot be used."""
        selection = self.choose(context)
        check_selection(selection, context, self.method)
        if self.asks_twice:
            check_repeated(selection, self.choose(context), self.method)
        if self.watch is not None:
            self.watch.look(self, context, selection)
        return selection

    def choose(self, context: Context) -> Selection:
        """The method's choice, in the stage's precision."""
        select = self.method.adapt if context.auto else self.method.select
        if self.precision == "float32":
            return select(context)
        context = context.through(lambda source: source, self.precision)  # orders of choice differ
        tokens = context.tokens  # outside: the model computes them as ever
        with in_precision(tokens.dtype):
            return select(context)

    def _default(self, name: str, value: str) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)


def make_stages(
    method: str | type[Method] | Method,
    *,
    kept: Kept | str | Sequence[Kept | str] | None = None,
    agg_layer: int | Sequence[int] | None = None,
    temperature: float = 0.1,
    aggregation: str | None = None,
    layout: str = "compact",
    position: str | None = None,
    precision: str = "float32",
    scope: str = "video",
    aggregator: LearnedAggregator | str | None = None,
    num_layers: int | None = None,
    width: int | None = None,
    **method_options: Any,
) -> list[Stage]:
    """The stages that one setting means; kept and agg_layer may be sequences of the same length.

    kept: counts, shares ("25%" or 0.25) of the visual tokens before any reduction, or "auto" for every stage.
    num_layers: the decoder's, to check agg_layer against; agg_layer == num_layers reduces nothing. agg_layer None:
    the method's own layers, for a decoder of that depth. One kept for several layers: what remains after the last.
    aggregator: see `Stage`. width: the decoder's hidden size, to check it against.

    Raises TokenselError, naming key, value and what is allowed.
    """
    chosen = make_method(method, **method_options)
    layers = _layers(chosen, agg_layer, num_layers)
    one_by_one = isinstance(kept, Sequence) and not isinstance(kept, str)
    counts: list[Any] = list(kept) if isinstance(kept, Sequence) and one_by_one else [kept] * len(layers)
    if len(counts) != len(layers):
        raise TokenselError(f"kept={kept!r}, agg_layer={layers}: must name as many kept as layers")
    scheduled = not one_by_one and len(layers) > 1
    stages = [
        Stage(
            chosen,
            count,
            layer,
            temperature,
            aggregation,
            layout,
            position,
            index,
            len(layers),
            scheduled,
            precision,
            scope,
            aggregator=aggregator,
        )
        for index, (count, layer) in enumerate(zip(counts, layers, strict=True))
    ]
    _check_order(stages, num_layers)
    if width is not None and stages[0].learned is not None:
        stages[0].learned.check_width(width)
    cut_off = chosen.cut_off()
    if cut_off is not None:
        if cut_off <= layers[-1]:
            raise TokenselError(f"cut_off_layer={cut_off}: must lie above agg_layer={layers[-1]}")
        if num_layers is not None and cut_off > num_layers:
            raise TokenselError(f"cut_off_layer={cut_off}: must be at most {num_layers}, the model's number of layers")
        stages.append(Stage(NoImage(), 0, cut_off, layout=layout))
    return stages


def _check_order(stages: list[Stage], num_layers: int | None) -> None:
    """Layers must rise and kept must not; a count and a share can be compared only where a picture is known."""
    layers, counts = [stage.layer for stage in stages], [stage.kept for stage in stages]
    if len({isinstance(kept, Auto) for kept in counts}) > 1:
        listed = ", ".join(kept_text(kept or 0) for kept in counts)
        raise TokenselError(f"kept=[{listed}]: either every stage has auto or none")
    for earlier, later in itertools.pairwise(stages):
        if later.layer <= earlier.layer:
            raise TokenselError(f"agg_layer={layers}: layers of several stages must rise")
        before, after = earlier.kept or 0, later.kept or 0
        if isinstance(before, Auto) or isinstance(after, Auto):
            continue
        if type(before) is type(after) and after > before:
            listed = ", ".join("None" if count is None else kept_text(count) for count in counts)
            raise TokenselError(f"kept=[{listed}]: must not grow from stage to stage")
    if num_layers is not None and layers[-1] > num_layers:
        raise TokenselError(f"agg_layer={layers[-1]}: must be from 0 to {num_layers}, the model's number of layers")


def _layers(method: Method, agg_layer: int | Sequence[int] | None, num_layers: int | None) -> list[int]:
    if agg_layer is None:
        return default_layers(method, num_layers)
    layers = list(agg_layer) if isinstance(agg_layer, Sequence) else [agg_layer]
    if not layers or isinstance(agg_layer, str):
        raise TokenselError(f"agg_layer={agg_layer!r}: must be a layer or a list of layers")
    return layers


def default_layers(method: Method, num_layers: int | None = None) -> list[int]:
    """The method's own layers. In a decoder of fewer than 32 layers, several stages move down in proportion, each at
    least one layer above the one before; a single stage stays where it is if the decoder is deeper than that."""
    layers = list(method.default_layers)
    if num_layers is None or num_layers >= USUAL_DEPTH or (len(layers) == 1 and layers[0] < num_layers):
        return layers
    scaled: list[int] = []
    for layer in layers:
        least = scaled[-1] + 1 if scaled else min(layer, 1)  # layer 0 is where a method acts before the decoder
        scaled.append(max(least, round(layer * num_layers / USUAL_DEPTH)))
    return scaled
