"""What a search found: its best trials on the test questions, beside each method's own one-stage rule at equal cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.search.trials import Trial, Trials, for_part, text_of
from tokensel.evaluation.statistics import compare_seeds
from tokensel.evaluation.sweep.plan import PlannedPoint, SweepPlan, in_order, make_plan
from tokensel.evaluation.sweep.rows import TableRow, shared_answers
from tokensel.evaluation.sweep.settings import SweepSettings


@dataclass(frozen=True)
class Found:
    """A trial, or a method's own rule, and its line of the test's table; None if it failed there.

    difference, ci_low, ci_high: on the test questions, from the rule of its method, from -1 to 1, with its 95%
    interval; p_value: exact McNemar. None for a rule itself.
    """

    trial: Trial
    is_rule: bool
    row: TableRow | None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None

    def record(self) -> dict[str, Any]:
        """All figures, for files and JSON."""
        metrics = {} if self.row is None else self.row.metrics
        names = ("n", "correct", "accuracy", "ci_low", "ci_high", "flops_ratio", "tokens_layer_mean")
        return {
            "rule": self.is_rule,
            **self.trial.record(),
            "test": {"key": None if self.row is None else self.row.key} | {name: metrics.get(name) for name in names},
            "difference": self.difference,
            "difference_ci_low": self.ci_low,
            "difference_ci_high": self.ci_high,
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class Outcome:
    """The lines that a search prints, and all its trials."""

    budget: str
    validation_questions: int
    found: list[Found]
    trials: list[Trial]

    def record(self) -> dict[str, Any]:
        """All figures, for files and JSON."""
        return {
            "budget": self.budget,
            "validation_questions": self.validation_questions,
            "best": [each.record() for each in self.found],
            "trials": [trial.record() for trial in self.trials],
        }


def test_plan(rules: Sequence[SweepSettings], trials: Trials) -> SweepPlan:
    """The sweep over the test questions: each method's rule with the sweep's controls, and the best trials.

    rules: the settings of each method's rule.
    """
    plan = make_plan([for_part(each, "test") for each in rules])
    (group,) = plan.groups
    controls = [each for each in group.points if each.control or each.budget is None]
    chosen = [each.point for each in [*trials.rules.values(), *trials.best()] if each.point is not None]
    planned = [PlannedPoint(point, rules[0].limit, trials.budget, solved=True) for point in chosen]
    group.points = in_order([*controls, *planned])
    return plan


def outcome_of(trials: Trials, rows: Sequence[TableRow], points: Mapping[str, GridPoint]) -> Outcome:
    """What the test's table says of the trials that were chosen, the rules first. points: those of the test, by key."""
    keys = {text_of(point): key for key, point in points.items()}
    by_key = {key: row for row in rows for key in row.keys if not row.error}
    found = []
    rules: dict[str, TableRow | None] = {}
    for method, rule in trials.rules.items():
        rules[method] = by_key.get(keys.get(text_of(rule.point), "")) if rule.point is not None else None
        found.append(Found(rule, True, rules[method]))
    for trial in trials.best():
        assert trial.point is not None
        row = by_key.get(keys.get(text_of(trial.point), ""))
        found.append(_compared(trial, row, rules.get(trial.point.method)))
    return Outcome(str(trials.budget), len(trials.questions[: trials.search.limit]), found, trials.done)


def _compared(trial: Trial, row: TableRow | None, rule: TableRow | None) -> Found:
    answers = [] if row is None or rule is None else shared_answers([row, rule])
    if not answers:
        return Found(trial, False, row)
    difference = compare_seeds(answers[0], answers[1])
    return Found(trial, False, row, difference.difference, difference.ci_low, difference.ci_high, difference.p_value)
