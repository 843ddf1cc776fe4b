"""From settings to a plan: which grid points to compute, with their controls, on which questions."""

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokensel.auto import Auto
from tokensel.data.protocol import Protocol
from tokensel.engine.kept import count_of
from tokensel.errors import TokenselError, as_typed, meant
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.sweep.budget import Budget, read_budget, solve
from tokensel.evaluation.sweep.costs import CostedPrompt
from tokensel.evaluation.sweep.groups import DataSettings, ModelSettings
from tokensel.evaluation.sweep.reading import one_value
from tokensel.evaluation.sweep.settings import USUAL_KEPT, SweepSettings
from tokensel.methods import METHODS, find_method
from tokensel.training.aggregator import SHIPPED

# Of a picture, where nobody has counted: LLaVA-1.5's.
USUAL_TOKENS = 576
# Seeds of controls that draw at random, and the share of a sweep's points up to which more than one is the default.
SEEDS, FEW_SEEDS = 3, 0.1


@dataclass(frozen=True)
class PlannedPoint:
    """A line of the final table: a grid point on the first `limit` questions; None: on all.

    budget: what its kept is solved for, see `tokensel.evaluation.sweep.budget`; None: kept was given. In a plan, the
    kept of a point with a budget is not solved yet, as that takes the data set's questions. timed: whether its times
    are taken; another seed of a control takes as long as the first. control: the point was added, and not asked for.
    solved: its kept meets the budget.
    """

    point: GridPoint
    limit: int | None
    budget: Budget | None = None
    timed: bool = True
    control: bool = False
    solved: bool = False


@dataclass
class Group:
    """Points that share a model, a data set, a scoring and a protocol, and so one pass over the questions."""

    model: ModelSettings
    data: DataSettings
    scoring: str
    protocol: Protocol = field(default_factory=Protocol)
    points: list[PlannedPoint] = field(default_factory=list)

    @property
    def protocol_settings(self) -> dict[str, str | None]:
        """The part of the protocol that can change a prediction: scoring=letter reads no answer, so reading is None."""
        return asdict(self.protocol) | ({} if self.scoring == "generate" else {"reading": None})

    @property
    def identity(self) -> str:
        """Equal for two groups if and only if they are the same group."""
        parts = [self.model.model_dump(), self.data.model_dump(), self.scoring, self.protocol_settings]
        return json.dumps(parts, sort_keys=True)


@dataclass(frozen=True)
class SweepPlan:
    """Everything that one start of a sweep computes. settings: those that hold for the whole sweep."""

    settings: SweepSettings
    groups: list[Group]


def make_plan(jobs: Sequence[SweepSettings]) -> SweepPlan:
    """Groups the jobs of a grid, adds their controls, and drops repetitions.

    Raises TokenselError, naming key, value and what is allowed.
    """
    shared = one_value(list(jobs))
    known = ", ".join(sorted(METHODS))
    for name in shared.controls:
        if name not in METHODS:
            raise TokenselError(
                f"controls={as_typed(shared.controls)}: {name} is unknown; choose from {known}{meant(name, METHODS)}"
            )
    unread = [job.aggregation.path for job in jobs if job.aggregation.path is not None]
    if unread and all(job.aggregation.name != "learned" for job in jobs):
        raise TokenselError(f"aggregation.path={as_typed(unread[0])}: only aggregation=learned reads it")
    groups: dict[str, Group] = {}
    for job in jobs:
        group = Group(job.model, job.data, job.scoring, job.protocol())
        group = groups.setdefault(group.identity, group)
        group.points.append(plan_point(job))
    for group in groups.values():
        group.points = _with_controls(group.points, shared)
    return SweepPlan(shared, list(groups.values()))


def plan_point(job: SweepSettings) -> PlannedPoint:
    """The line of the table that one job asks for. Raises TokenselError for a setting that no model could run."""
    # If another process composed this job, a user's method is not registered here yet: it is loaded from its file.
    method = find_method(job.method.file or job.method.name)
    reduces = method.takes_kept()
    budget = read_budget(job.budget) if reduces and job.budget is not None else None
    kept = USUAL_KEPT if job.kept is None else job.kept
    with options_as_typed(job.method.options), aggregator_as_typed():
        point = GridPoint(
            method=job.method.name,
            kept=(_one_or_several(kept) if budget is None else max(1, method.min_kept)) if reduces else None,
            # The control no_image removes the picture before the first layer, wherever the other points reduce.
            agg_layer=_one_or_several(job.agg_layer) if reduces else None,
            temperature=job.temperature,
            aggregation=job.aggregation.name if reduces else None,
            layout=job.layout if reduces else "compact",
            position=job.position if reduces else None,
            seed=job.seed,
            method_options=job.method.options,
            precision=job.method.precision,
            scope=job.scope if reduces else "video",
            aggregator=_aggregator(job) if reduces else None,
        )
    return PlannedPoint(point, job.limit, budget)


@contextmanager
def options_as_typed(options: Mapping[str, Any]) -> Iterator[None]:
    """Errors about a method's options name them as they are typed: method.start=foo, where the method says start='foo'.

    options: by name, without "method.".
    """
    try:
        yield
    except TokenselError as error:
        for name, value in options.items():
            for start in (f"{name}={value!r}", f"{name}={value}"):
                if str(error).startswith(start):
                    rest = str(error).removeprefix(start)
                    raise TokenselError(f"method.{name}={as_typed(value)}{rest}") from error
        raise


def _aggregator(job: SweepSettings) -> str | None:
    """The file of a learned aggregation; "tiny", the embedded model's own, where none is named."""
    if job.aggregation.name != "learned" or job.aggregation.path is not None:
        return job.aggregation.path if job.aggregation.name == "learned" else None
    if job.model.path not in SHIPPED:
        raise TokenselError(
            f"aggregation.path=null: give the file that runners.train_aggregator wrote for {as_typed(job.model.path)}; "
            "only the embedded model has its own"
        )
    return job.model.path


@contextmanager
def aggregator_as_typed() -> Iterator[None]:
    """Errors about an aggregator's file name it as it is typed: aggregation.path=FILE."""
    try:
        yield
    except TokenselError as error:
        if str(error).startswith("aggregator="):
            raise TokenselError(f"aggregation.path={str(error).removeprefix('aggregator=')}") from error
        raise


def _one_or_several(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _with_controls(points: Sequence[PlannedPoint], settings: SweepSettings) -> list[PlannedPoint]:
    """The points with their controls, in the table's order.

    control_seeds=null: SEEDS seeds of controls that draw at random, but one where the others would be more than
    FEW_SEEDS of all points, and so a noticeable part of a sweep's time.
    """
    seeds = settings.control_seeds or SEEDS
    planned = in_order([*_controls(points, settings.controls, seeds), *points])
    added = sum(not each.timed for each in planned)
    if settings.control_seeds is None and added > FEW_SEEDS * len(planned):
        return in_order([*_controls(points, settings.controls, 1), *points])
    return planned


def _controls(points: Sequence[PlannedPoint], names: Sequence[str], seeds: int) -> list[PlannedPoint]:
    """The controls of these points: full and no_image once per limit, the others at every kept or budget, first layer,
    layout and scope that the points have; none of these at kept=auto, which names no count that they could share.
    seeds: of controls that draw at random."""
    controls = []
    for planned in points:
        for name in names:
            method, point = find_method(name), planned.point
            if not method.takes_kept():
                controls.append(PlannedPoint(GridPoint(name), planned.limit))
            elif point.kept is not None and not isinstance(point.final_kept, Auto):
                layer = point.agg_layer[0] if isinstance(point.agg_layer, tuple) else point.agg_layer
                layout = point.layout
                if layout == "mask" and (method.returns_values or method.default_aggregation != "none"):
                    layout = "compact"
                kept = point.final_kept if planned.budget is None else max(1, method.min_kept)
                for more in range(seeds if _draws(name) else 1):
                    seed = point.seed + more
                    control = GridPoint(name, kept, layer, layout=layout, seed=seed, scope=point.scope)
                    controls.append(PlannedPoint(control, planned.limit, planned.budget, timed=more == 0, control=True))
    return controls


def _draws(name: str) -> bool:
    """Whether a method chooses at random wherever it is applied."""
    method = find_method(name)()
    return all(method.draws(layer) for layer in (0, 1, 2))


def solved(points: Sequence[PlannedPoint], prompt: CostedPrompt) -> list[PlannedPoint]:
    """The points with every budget solved for this prompt. A control that cannot reach it is left out, with a warning.

    Raises TokenselError for a budget that any other point cannot reach.
    """
    found = []
    for each in points:
        try:
            if each.budget is not None and not each.solved:
                each = replace(each, point=solve(each.budget, each.point, prompt), solved=True)
            found.append(each)
        except TokenselError as error:
            if not each.control:
                raise
            warnings.warn(f"controls: without {each.point.method} ({error})", stacklevel=1)
    return in_order(found, prompt.visual_tokens)


def in_order(points: Sequence[PlannedPoint], visual_tokens: int = USUAL_TOKENS) -> list[PlannedPoint]:
    """The points without repetition, in the table's order: full, then by budget and kept, no_image last.

    visual_tokens: of a picture, to compare counts with shares.
    """
    distinct = {
        json.dumps([planned.point.settings(), planned.limit, str(planned.budget)], sort_keys=True): planned
        # Of a control and a point that was asked for, that which is timed stays.
        for planned in sorted(points, key=lambda planned: planned.timed)
    }

    def order(planned: PlannedPoint) -> tuple:
        point, budget = planned.point, planned.budget
        method = find_method(point.method)
        end = 0 if method.takes_kept() else -1 if method.passes_through else 1
        kept = count_of(point.final_kept or 0, visual_tokens)
        layers = [stage.layer for stage in point.stages()]
        spent = ("", 0.0) if budget is None else (budget.kind, budget.target)
        return (planned.limit or math.inf, end, *spent, kept, point.method, layers)

    return sorted(distinct.values(), key=order)
