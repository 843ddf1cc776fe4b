"""The base classes of all methods."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import (
    ascending,
    covering_counts,
    covers,
    farthest_coverage,
    keep_best,
    keep_best_each,
    mass_coverage,
    score_masses,
)
from tokensel.methods.context import Context, Selection
from tokensel.methods.sizes import Sizes

# Under kept=auto, so many tokens are chosen first. Where they do not cover the picture, so many times as many are.
FIRST_CHOICES, MORE_CHOICES = 32, 4


class _NameOfClass:
    """A method's name unless its class sets one: the class's, in snake_case."""

    def __get__(self, instance: object, owner: type) -> str:
        return snake_case(owner.__name__)


def snake_case(name: str) -> str:
    """LargestNorm -> largest_norm."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()


@dataclass
class Method:
    """Base of all methods: a dataclass whose fields are the hyper-parameters, with a `select`.

    Class variables state what the method needs and its defaults; their own defaults suit a method that uses hidden
    states only.

    name: the registered name; the class's in snake_case unless it is set.
    default_aggregation, default_position: the stage's aggregation and position unless the user sets them.
    default_coverage: of kept="auto", unless the user sets one; None: the method has no order of choice, and cannot.
    default_layers: agg_layer unless the user sets it, for a decoder of 32 or more layers; one stage per layer.
    only_layer: the only agg_layer that the method supports; None: any.
    min_kept: the smallest kept that the method supports.
    fixed_kept: the only kept that the method supports; None: any.
    passes_through: the method never reduces anything inside the model.
    changes_picture: `kept` says how far the picture is reduced before the model sees it; only sweeps can do that.
    returns_values: `select` computes what the survivors carry, so no aggregation and no layout="mask" is possible.
    uses_attention: `select` uses the previous layer's attention.
    uses_vision: `select` uses the vision tower.
    needs_cls: the vision tower must have one [CLS] for the picture, as in LLaVA-1.5.
    sees_frames: `select` knows that `Context.grid` has three numbers for a video. Others that use it are refused for a
        video, unless its frames are reduced each by itself.
    """

    name: ClassVar[str] = _NameOfClass()  # type: ignore[assignment]
    default_aggregation: ClassVar[str] = "none"
    default_position: ClassVar[str] = "source"
    default_coverage: ClassVar[float | None] = None
    default_layers: ClassVar[tuple[int, ...]] = (2,)
    only_layer: ClassVar[int | None] = None
    min_kept: ClassVar[int] = 0
    fixed_kept: ClassVar[int | None] = None
    passes_through: ClassVar[bool] = False
    changes_picture: ClassVar[bool] = False
    returns_values: ClassVar[bool] = False
    uses_attention: ClassVar[bool] = False
    uses_vision: ClassVar[bool] = False
    needs_cls: ClassVar[bool] = False
    sees_frames: ClassVar[bool] = False

    def select(self, context: Context) -> Selection:
        """Chooses context.kept of the context.count visual tokens. Called only if kept < count."""
        raise NotImplementedError

    def adapt(self, context: Context) -> Selection:
        """As many visual tokens as context.auto asks for, from its min to context.kept; rows of a batch may differ."""
        raise NotImplementedError

    def flops(self, sizes: Sizes) -> int:
        """Floating-point operations of `select`; only matrix products count.

        A method that does not define it counts as free, and cost reports say so.
        """
        return 0

    def adapt_flops(self, sizes: Sizes, least: int, left: int) -> int:
        """Floating-point operations of `adapt` where `left` tokens remain, of at least `least` and at most
        sizes.kept."""
        return self.flops(sizes)

    @classmethod
    def adapts(cls) -> bool:
        """Whether kept="auto" is possible. Not for a subclass that defines `select` alone, whose order is unknown."""
        defined = next(vars(kind).keys() & {"select", "adapt"} for kind in cls.__mro__ if "select" in vars(kind))
        return cls.default_coverage is not None and "adapt" in defined

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        """The number of visual tokens, of `count`, that remain after each stage if the user gives only the last one."""
        return (kept,) * stages

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int | None:
        """How many visual tokens of `count` a stage leaves when asked for `kept` < count. layer, stage: as in Context.

        None: it depends on the picture; then rows of a batch may differ (`Selection.counts`).
        """
        return kept

    def decides_count(self) -> bool:
        """Whether the options decide how many tokens remain, and `kept` means nothing."""
        return False

    def reads_tower(self, config: Any) -> bool:
        """Whether `select` uses the vision tower of a model with this configuration, transformers' own."""
        return self.uses_vision

    def resolved_settings(self, config: Any | None = None) -> dict[str, Any]:
        """Options whose value depends on the machine or the model, with the value that takes effect.

        They replace the fields' own in a grid point's stored settings and in its key. config: the model's; None = not
        known.
        """
        return {}

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for methods of one class and the same options."""
        return type(self), repr([(option.name, getattr(self, option.name)) for option in fields(self)])

    @classmethod
    def takes_kept(cls) -> bool:
        """Whether `kept` can be chosen. It cannot where nothing is ever removed, or always the same number."""
        return cls.changes_picture or (not cls.passes_through and cls.fixed_kept is None)

    def cut_off(self) -> int | None:
        """The decoder layer before which all remaining visual tokens are removed; None: no such layer."""
        return None

    def draws(self, layer: int) -> bool:
        """Whether the choice at this layer depends on the method's seed."""
        return hasattr(self, "seed")


@dataclass
class ScoringMethod(Method):
    """Base of methods that rank: a subclass defines `score` instead of `select`.

    The `kept` visual tokens with the largest scores remain, in the order of the picture; ties go to the lowest index.
    Under kept="auto", coverage is the share of the sum of all `masses` that the remaining tokens hold.
    """

    default_coverage: ClassVar[float | None] = 0.6

    def score(self, context: Context) -> Tensor:
        """A score for every visual token, larger = kept first: [B, N] of a real dtype."""
        raise NotImplementedError

    def masses(self, context: Context, scores: Tensor) -> Tensor:
        """How much each token's score counts, at least 0: [B, N]. Scores themselves; in rows with a negative one, what
        they exceed the lowest by."""
        return score_masses(scores)

    def select(self, context: Context) -> Selection:
        return Selection(keep_best(self._checked_scores(context), context.kept))

    def adapt(self, context: Context) -> Selection:
        scores = self._checked_scores(context)
        counts = _counts(context, mass_coverage(self.masses(context, scores), scores))
        return Selection(keep_best_each(scores, counts, context.kept), counts=counts)

    def _checked_scores(self, context: Context) -> Tensor:
        scores = self.score(context)
        expected = (len(context.row_keys), context.count)
        if scores.shape != expected:
            raise TokenselError(f"method {self.name!r}: score must return {list(expected)}, not {list(scores.shape)}")
        return scores


@dataclass
class OrderingMethod(Method):
    """Base of methods that choose one token after another: a subclass defines `order` instead of `select`.

    Grid points that differ in `kept` alone share one order, as the choice for a smaller kept begins that for a larger
    one. Under kept="auto", coverage is 1 - the largest distance (1 - cosine) of any token to its nearest chosen one.

    coverage_is_free: choosing computes all that coverage needs.
    """

    default_coverage: ClassVar[float | None] = 0.6
    coverage_is_free: ClassVar[bool] = False

    def order(self, context: Context) -> Tensor:
        """context.kept visual tokens in the order of choice: LongTensor[B, kept]. What it begins with must not depend
        on kept."""
        raise NotImplementedError

    def coverage(self, context: Context, order: Tensor) -> Tensor:
        """How much of the picture is covered after each choice of an order, LongTensor[B, K]: from 0 to 1, [B, K]."""
        return farthest_coverage(context.tokens, order)

    def ordered(self, context: Context) -> tuple[Tensor, Tensor]:
        """`order` and its `coverage`, for methods that find both at once."""
        order = context.first_of(self.order, self.identity)
        return order, self.coverage(context, order)

    def coverage_flops(self, sizes: Sizes) -> int:
        """Floating-point operations of `coverage` for sizes.kept choices."""
        return 0 if self.coverage_is_free else sizes.cosines(sizes.kept)

    def select(self, context: Context) -> Selection:
        order = context.first_of(self.order, self.identity)
        return Selection(order if self.default_position == "front" else order.sort(dim=1).values)

    def adapt(self, context: Context) -> Selection:
        auto, count = context.auto, context.count
        assert auto is not None
        assert auto.coverage is not None
        order = context.row_keys.new_zeros(len(context.row_keys), 0)
        covered = order.float()
        for choices in attempts(auto.min, min(context.kept, count - 1)):
            order, covered = self.ordered(context.with_kept(choices))
            if covers(covered, auto.coverage):
                break
        if context.kept == count:  # the last token, should all others not be enough
            others = torch.ones(len(order), count, dtype=torch.uint8, device=order.device).scatter(1, order, 0)
            order = torch.cat([order, others.argmax(1, keepdim=True)], 1)
        counts = _counts(context, covered)
        return Selection(order if self.default_position == "front" else ascending(order, counts, count), counts=counts)

    def adapt_flops(self, sizes: Sizes, least: int, left: int) -> int:
        total = 0
        for choices in attempts(least, min(sizes.kept, sizes.count - 1)):
            tried = replace(sizes, kept=choices)
            total += self.flops(tried) + self.coverage_flops(tried)
            if choices >= left:
                break
        return total


def attempts(least: int, most: int) -> Iterator[int]:
    """How many tokens are chosen until they cover the picture: few at first, and `most` in the end."""
    choices = max(FIRST_CHOICES, least)
    while choices < most:
        yield choices
        choices *= MORE_CHOICES
    if most > 0:
        yield most


def _counts(context: Context, covered: Tensor) -> Tensor:
    """How many choices are enough in each row: LongTensor[B]. covered: [B, K], after each choice."""
    auto = context.auto
    assert auto is not None
    assert auto.coverage is not None
    return covering_counts(covered, auto.coverage, auto.min, context.kept)


def geometric(kept: int, count: int, stages: int) -> tuple[int, ...]:
    """A schedule that falls from count to kept by equal factors: the tokens that remain after each stage."""
    ratio = (kept / count) ** (1 / stages)
    return (*(round(count * ratio ** (stage + 1)) for stage in range(stages - 1)), kept)


def by_factor(factor: int, kept: int, count: int, stages: int) -> tuple[int, ...]:
    """A schedule in which each stage keeps `factor` times as many tokens as the next, at most count."""
    return tuple(min(count, kept * factor ** (stages - 1 - stage)) for stage in range(stages))
