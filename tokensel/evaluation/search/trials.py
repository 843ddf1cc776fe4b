"""Trials of a search: settings become grid points that meet the budget, answered on the validation questions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokensel.data.portion import portion_options
from tokensel.engine.kept import kept_text
from tokensel.errors import TokenselError, as_typed
from tokensel.evaluation.clearing import clear_points
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.search.scales import latest_layer, scaled
from tokensel.evaluation.search.settings import SearchSettings, read_search
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.stored import is_point
from tokensel.evaluation.sweep.budget import Budget, read_budget, solve
from tokensel.evaluation.sweep.compute import Computer, Progress, compute
from tokensel.evaluation.sweep.costs import CostedPrompt
from tokensel.evaluation.sweep.groups import DataSettings
from tokensel.evaluation.sweep.plan import Group, PlannedPoint, SweepPlan, plan_point
from tokensel.evaluation.sweep.reading import read_settings
from tokensel.evaluation.sweep.settings import LatencySettings, SweepSettings
from tokensel.evaluation.sweep.work import GroupWork, PointWork, middle_prompt, prepare, questions_of

# Of a trial that no count can pay for, or that failed: below that of any that was answered.
WORST = -1.0
MakeComputer = Callable[[GroupWork, Progress], Computer]


@dataclass
class Trial:
    """One proposal, and what came of it.

    point: None where no count meets the budget. error: then why, or why the point failed. value: what the search
    maximises, the accuracy on the validation questions; below 0 where there is none.
    """

    number: int
    point: GridPoint | None
    value: float = WORST
    key: str = ""
    accuracy: float | None = None
    correct: int | None = None
    flops_ratio: float | None = None
    error: str = ""

    @property
    def stages(self) -> str:
        """Kept and layer of each stage, as "64@2 16@4"; * for a layer that is the method's own."""
        if self.point is None:
            return ""
        layers = ["*" if self.point.agg_layer is None else stage.layer for stage in self.point.stages()]
        kept = [kept_text(stage.kept or 0) for stage in self.point.stages()]
        return " ".join(f"{count}@{layer}" for count, layer in zip(kept, layers, strict=True))

    def record(self) -> dict[str, Any]:
        """All of it, for files and JSON. The figures are those of the validation questions."""
        point = self.point
        settings = {} if point is None else point.settings()
        return {
            "trial": self.number if self.number >= 0 else None,
            "method": settings.get("method"),
            "method_options": settings.get("method_options"),
            "kept": None if point is None else list(point.kept) if isinstance(point.kept, tuple) else point.kept,
            "agg_layer": None if point is None or point.agg_layer is None else [s.layer for s in point.stages()],
            "stages": self.stages,
            "temperature": settings.get("temperature"),
            "aggregation": settings.get("aggregation"),
            "validation": {
                "key": self.key or None,
                "accuracy": self.accuracy,
                "correct": self.correct,
                "flops_ratio": self.flops_ratio,
            },
            "error": self.error or None,
        }


def for_part(settings: SweepSettings, part: str) -> SweepSettings:
    """The settings with the questions of one part: validation or test."""
    options = portion_options(settings.data.name, settings.data.options, part)
    return settings.model_copy(update={"data": DataSettings(name=settings.data.name, **options)})


def for_trials(settings: SweepSettings, limit: int | None) -> SweepSettings:
    """The settings by which trials are answered: on validation questions, without controls, times and W&B."""
    plain = {"controls": [], "latency": LatencySettings(repeats=0), "limit": limit, "fresh": False}
    return for_part(settings, "validation").model_copy(update=plain)


@dataclass
class Trials:
    """All trials of one search, which are answered in batches over one model.

    base: a job of the search, by which everything is set that trials do not vary. folder: for their results, which
    hold no other. begin: told before each batch which points it computes.
    """

    base: SweepSettings
    search: SearchSettings
    folder: Path
    begin: Callable[[Sequence[PointWork]], None] = lambda points: None
    done: list[Trial] = field(default_factory=list)
    rules: dict[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base.budget is None:
            raise TokenselError("budget=null: a search needs one, such as budget=flops:0.4")
        self.budget: Budget = read_budget(self.base.budget)
        self.settings = for_trials(self.base, self.search.limit)
        self.group = Group(self.base.model, self.settings.data, self.base.scoring, self.base.protocol())
        self.questions = questions_of(self.settings.data)
        self.prompt: CostedPrompt = middle_prompt(self.group, self.questions)
        if self.base.fresh and self.folder.is_dir():
            stores = [PointStore(each) for each in self.folder.iterdir() if is_point(each)]
            clear_points(stores)
            for store in stores:
                store.close()

    @property
    def plan(self) -> SweepPlan:
        """Of no points yet."""
        return SweepPlan(self.settings, [replace(self.group, points=[])])

    def add_rule(self, job: Mapping[str, Any]) -> None:
        """A method's own rule, one stage for most, which is answered with the first trials. Where it acts too late to
        meet the budget, it is moved to the latest layer that can. Raises TokenselError where none can."""
        point = _point(read_settings(job))
        latest = latest_layer(self.budget, point, self.prompt)
        try:
            point = solve(self.budget, point, self.prompt)
        except TokenselError:
            moved = replace(point, agg_layer=latest)
            point = solve(self.budget, moved, self.prompt)
        self.rules[point.method] = Trial(-1, point)

    def evaluate(self, jobs: Sequence[Mapping[str, Any]], make: MakeComputer, progress: Progress) -> list[float]:
        """Answers a batch of trials, given as jobs, in one pass. Returns the value of each."""
        batch = [self._trial(len(self.done) + place, job) for place, job in enumerate(jobs)]
        open_rules = [rule for rule in self.rules.values() if not rule.key and not rule.error]
        self._answer([*open_rules, *batch], make, progress)
        self.done += batch
        return [trial.value for trial in batch]

    def _trial(self, number: int, job: Mapping[str, Any]) -> Trial:
        search, point = read_search(job["search"]), _point(read_settings(job))
        point = replace(point, temperature=float(f"{point.temperature:.3g}"))
        try:
            return Trial(number, scaled(point, search.depths, search.falls, self.budget, self.prompt))
        except TokenselError as error:
            if "cannot reach it" not in str(error):
                raise
            return Trial(number, None, error=str(error))

    def _answer(self, trials: Sequence[Trial], make: MakeComputer, progress: Progress) -> None:
        asked = [trial for trial in trials if trial.point is not None]
        planned = [
            PlannedPoint(trial.point, self.search.limit, self.budget, solved=True)
            for trial in asked
            if trial.point is not None
        ]
        plan = SweepPlan(self.settings, [replace(self.group, points=planned)])
        if not planned:
            return
        (work,) = prepare(plan, self.folder)
        self.begin(work.open_points)
        if work.open_points:
            compute(work, plan, progress, make(work, progress))
        for point in work.points.values():
            point.store.close()  # a later trial may be the same point, and try once more what failed
        keys = {text_of(line.point): key for line, key in work.lines}
        for trial in asked:
            assert trial.point is not None
            trial.key = keys[text_of(trial.point)]
            point = work.points[trial.key]
            trial.error = point.error
            if not point.error and point.metrics is not None:
                trial.value = trial.accuracy = point.metrics["accuracy"]
                trial.correct, trial.flops_ratio = point.metrics["correct"], point.metrics["flops_ratio"]

    def best(self) -> list[Trial]:
        """The `search.best` trials with the highest value, no grid point twice; of equals, the earlier one."""
        distinct: dict[str, Trial] = {}
        for trial in sorted(self.done, key=lambda trial: (-trial.value, trial.number)):
            if trial.accuracy is not None:
                distinct.setdefault(trial.key, trial)
        return list(distinct.values())[: self.search.best]

    def failures(self) -> list[str]:
        """The trials that failed as they ran, in words; not those that no count could pay for."""
        failed = [trial for trial in [*self.rules.values(), *self.done] if trial.error and trial.point is not None]
        return [f"{trial.point and trial.point.method} {trial.stages} ({trial.key}): {trial.error}" for trial in failed]


def text_of(point: GridPoint) -> str:
    """Equal for grid points that always predict the same."""
    return json.dumps(point.settings(), sort_keys=True, default=str)


def _point(settings: SweepSettings) -> GridPoint:
    if settings.agg_layer is not None:
        raise TokenselError(f"agg_layer={as_typed(settings.agg_layer)}: leave it out; the search chooses it")
    planned = plan_point(settings)
    if planned.budget is None:
        raise TokenselError(f"method={settings.method.name}: has no number of kept tokens to search for")
    return planned.point
