"""What a search prints: its help, and its table."""

import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from runners.terminal.output import print_record

if TYPE_CHECKING:
    from runners.searching.run import Searched
    from tokensel.evaluation.search.outcome import Found

_DASH = "-"


def print_help(usage: str) -> None:
    """Prints the command's docstring, and the settings under `search`."""
    from runners.configuration.help import WIDEST, print_settings
    from tokensel.evaluation.search.settings import SearchSettings
    from tokensel.evaluation.sweep.reading import described

    print(usage.strip())
    print("\nSettings of the search, beside those of the sweep\n")
    print_settings(described(SearchSettings, "search."), min(WIDEST, shutil.get_terminal_size().columns))
    print("\nWhat is varied, and in which range, stands under hydra.sweeper.params in conf/search.yaml.")


def report(searched: "Searched", json: bool | None) -> int:
    """Prints the table and the points that failed, and all figures as JSON if wanted. Returns the exit status."""
    from rich.console import Console

    from runners.terminal.columns import print_columns

    outcome, summary, folder = searched.outcome, searched.summary, searched.test.folder
    console = Console(width=None if Console().is_terminal else 80)
    print_columns(_columns(outcome.found), console)
    tried = len({trial.key for trial in outcome.trials if trial.key})
    beyond = sum(trial.point is None for trial in outcome.trials)
    lines = [
        f"{len(outcome.trials)} trials, {tried} different, {beyond} that no count can pay for; each on "
        f"{outcome.validation_questions} validation questions.",
        f"budget: {outcome.budget}. stages: kept@layer. rule: the method's own layers, one kept for the budget.",
        "vs rule: percentage points on the same test questions, 95% interval, exact McNemar p.",
        "The best of many trials looks better on validation than it is; the test shows what remains of it.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    for failed in summary["failed"]:
        print(f"failed: {failed}", file=sys.stderr)
    if summary["failed"]:
        print(f"Tracebacks are in {searched.test.log.parent}", file=sys.stderr)
    print(f"Files in {folder}: search.json, validation, and the sweep's of the test; its page with the controls:")
    print(f"python -m runners.report {shlex.quote(str(folder))}")
    print_record(summary, json)
    return 1 if summary["failed"] else 0


def _columns(found: "list[Found]") -> list:
    from runners.terminal.columns import Column

    methods = {each.trial.point.method for each in found if each.trial.point is not None}
    ranks = iter(range(1, len(found) + 1))
    place = ["rule" if each.is_rule else str(next(ranks)) for each in found]
    method = [each.trial.point.method if each.trial.point is not None else _DASH for each in found]
    tests = [{} if each.row is None else each.row.metrics for each in found]
    spans = [f"{_percent(each.get('ci_low'))}-{_percent(each.get('ci_high'))}" if each else _DASH for each in tests]
    temperatures = [None if each.trial.point is None else each.trial.point.settings()["temperature"] for each in found]
    columns = [
        Column("place", "", place),
        Column("method", "method", method, importance=100 if len(methods) > 1 else 1),
        Column("stages", "stages", [each.trial.stages for each in found]),
        Column(
            "temperature", "temp", [_DASH if each is None else f"{each:.3g}" for each in temperatures], importance=5
        ),
        Column("validation", "valid.\n%", [_percent(each.trial.accuracy) for each in found]),
        Column("test", "test\n%", [_percent(each.get("accuracy")) for each in tests]),
        Column("interval", "95%", spans, importance=3),
        Column("FLOPs", "FLOPs\nratio", [_number(each.get("flops_ratio")) for each in tests], importance=4),
        Column("vs rule", "vs rule", [_difference(each) for each in found]),
        Column("p", "p", [_DASH if each.p_value is None else f"{each.p_value:.2g}" for each in found]),
    ]
    return [each for each in columns if each.name != "method" or len(methods) > 1]


def _difference(each: "Found") -> str:
    if each.difference is None or each.ci_low is None or each.ci_high is None:
        return _DASH
    return f"{100 * each.difference:+.1f} [{100 * each.ci_low:+.1f},{100 * each.ci_high:+.1f}]"


def _percent(share: float | None) -> str:
    return _DASH if share is None else f"{100 * share:.1f}"


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"
