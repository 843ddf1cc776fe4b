"""Which lines of a table may be called the best: at equal cost, and given how many were tried."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokensel.data.protocol import CHOICES
from tokensel.evaluation.statistics import best_of
from tokensel.evaluation.sweep.budget import read_budget
from tokensel.evaluation.sweep.results import EQUAL_COST, varying_columns
from tokensel.evaluation.sweep.rows import TableRow, shared_answers

NAMED = 2  # of those that tie, before "and N more"


@dataclass
class Level:
    """Lines of one pool that cost no more than a certain amount, the most accurate first.

    at            in words: "kept 16", "budget flops:0.4" or "with 29% of the FLOPs"
    ranked        those that were asked most questions; accuracies: theirs, over the n questions that they all answered
    p_corrected   of each one's comparison with the first, see `best_of`; comparisons: for how many it is corrected
    not_ranked    those that were asked fewer questions
    """

    at: str
    ranked: list[TableRow]
    not_ranked: list[TableRow]
    n: int = 0
    accuracies: list[float] = field(default_factory=list)
    p_corrected: list[float] = field(default_factory=list)
    comparisons: int = 0
    tied: list[TableRow] = field(default_factory=list)

    @property
    def has_best(self) -> bool:
        """Whether the first is significantly ahead of every other one."""
        return len(self.ranked) > 1 and len(self.tied) == 1

    def rank(self, comparisons: int) -> None:
        """Sorts the ranked lines by accuracy, and compares each with the first."""
        answers = shared_answers(self.ranked)
        if not answers:
            self.tied = list(self.ranked)
            return
        found = best_of(answers, comparisons)
        self.tied = [self.ranked[place] for place in found.tied]
        self.ranked = [self.ranked[place] for place in found.order]
        self.n, self.accuracies, self.p_corrected = answers[0].shape[1], found.accuracies, found.p_corrected
        self.comparisons = comparisons


def levels(rows: Sequence[TableRow]) -> list[Level]:
    """The levels of all pools, ranked; those of one pool are corrected for their number of comparisons together.

    Lines are compared at equal budget, or at equal kept where all lines of each kept cost about the same. Otherwise the
    cost decides: with a share of the FLOPs, every line that needs no more than it competes, whatever its kept. Of
    several shares with the same most accurate line, one level is made.
    """
    return [level for pool in _by_pool(rows) for level in _ranked(pool)]


def _by_pool(rows: Sequence[TableRow]) -> Iterator[list[Level]]:
    """For each pool, its levels that are corrected together; not ranked yet."""
    for pool in dict.fromkeys(row.pool for row in rows):
        competing = [row for row in rows if row.pool == pool and row.competes]
        yield _at_budgets(competing)
        same_kept = [[row for row in competing if row.setting["kept"] == count] for count in _kept_counts(competing)]
        # A kept that only budgets were solved for is compared at these.
        kept = [same for same in same_kept if not all(row.budgets for row in same)]
        if all(_equal_cost(same) for same in kept):
            yield [_level(f"kept {same[0].setting['kept']}", same) for same in kept]
        else:
            yield _by_cost([row for same in kept for row in same])


def _kept_counts(rows: Sequence[TableRow]) -> list[Any]:
    return list(dict.fromkeys(row.setting["kept"] for row in sorted(rows, key=lambda row: row.kept or 0)))


def _at_budgets(rows: Sequence[TableRow]) -> list[Level]:
    budgets = sorted({each for row in rows for each in row.budgets}, key=_by_target)
    return [_level(f"budget {each}", [row for row in rows if each in row.budgets]) for each in budgets]


def _by_target(text: str) -> tuple[str, float]:
    budget = read_budget(text)
    return budget.kind, budget.target


def _level(at: str, rows: Sequence[TableRow]) -> Level:
    most = max(row.asked for row in rows)
    ordered = sorted(rows, key=lambda row: (_cost(row), row.setting["method"], row.key))
    ranked = [row for row in ordered if row.asked == most]
    return Level(at, ranked, [row for row in ordered if row.asked < most])


def _comparisons(made: Sequence[Level]) -> int:
    return sum(len(level.ranked) - 1 for level in made)


def _ranked(made: Sequence[Level]) -> Sequence[Level]:
    for level in made:
        level.rank(max(1, _comparisons(made)))
    return made


def _cost(row: TableRow) -> float:
    return row.metrics.get("flops_ratio") or 0.0


def _equal_cost(rows: Sequence[TableRow]) -> bool:
    costs = [_cost(row) for row in rows if _cost(row)]
    return not costs or max(costs) <= (1 + EQUAL_COST) * min(costs)


def _by_cost(rows: Sequence[TableRow]) -> list[Level]:
    """One level for each most accurate line that a rising share of the FLOPs allows."""
    made: list[tuple[float, float, Level]] = []  # of one most accurate line: the lowest and the highest share
    for bound in _bounds(rows):
        level = _level("", [row for row in rows if _cost(row) <= bound])
        if made and _most_accurate(made[-1][2]) is _most_accurate(level):
            made[-1] = made[-1][0], bound, level
        else:
            made.append((bound, bound, level))
    for low, high, level in made:
        level.at = f"with {_span(low, high)} of the FLOPs"
    return [level for _, _, level in made]


def _most_accurate(level: Level) -> TableRow:
    """The first one of a level that is not ranked yet; of equals, the cheapest."""
    return max(level.ranked, key=lambda row: round(row.metrics["accuracy"], 12))


def _span(low: float, high: float) -> str:
    first, last = f"{100 * low:.0f}%", f"{100 * high:.0f}%"
    return first if first == last else f"{first} to {last}"


def _bounds(rows: Sequence[TableRow]) -> Iterator[float]:
    """The highest cost of each group of lines that cost about the same."""
    costs = sorted(_cost(row) for row in rows)
    lowest = costs[0]
    for cost, following in zip(costs, [*costs[1:], None], strict=True):
        if following is None or following > (1 + EQUAL_COST) * lowest:
            yield cost
            lowest = following or 0.0


def _varying(rows: Sequence[TableRow]) -> dict[str, list[str]]:
    """For each method, the settings that tell its competing lines apart."""
    competing = [row for row in rows if row.competes]
    methods = dict.fromkeys(row.setting["method"] for row in competing)
    return {name: varying_columns([row for row in competing if row.setting["method"] == name]) for name in methods}


def name_of(row: TableRow, varying: Mapping[str, Sequence[str]], with_kept: bool = False) -> str:
    """The method, and in brackets the settings that tell it apart. varying: for each method, these settings."""
    parts = [f"kept {row.setting['kept']}"] if with_kept else []
    for name in varying.get(row.setting["method"], ()):
        value = row.setting.get(name)
        if name not in ("model", "data", "scoring", "budget") and value is not None:
            parts.append(f"{name.removeprefix('method.')} {value[:6] if name == 'code' else value}")
    return f"{row.setting['method']} ({', '.join(parts)})" if parts else str(row.setting["method"])


def sentences(rows: Sequence[TableRow]) -> list[str]:
    """One line for each level with several lines to compare: the best, or those that tie, and how many are behind."""
    varying = _varying(rows)
    found = [level for level in levels(rows) if len(level.ranked) + len(level.not_ranked) > 1]
    pools = len({level.ranked[0].pool for level in found})
    columns = varying_columns(rows) if pools > 1 else []
    names = [name for name in ("model", "data", "scoring", *CHOICES) if name in columns]
    return [
        "".join(f"{level.ranked[0].setting[name]}, " for name in names) + _sentence(level, varying) for level in found
    ]


def _sentence(level: Level, varying: Mapping[str, Sequence[str]]) -> str:
    def name(row: TableRow) -> str:
        return name_of(row, varying, with_kept="FLOPs" in level.at)

    shares = [f"{name(row)} {100 * share:.1f}%" for row, share in zip(level.ranked, level.accuracies, strict=False)]
    behind = len(level.ranked) - len(level.tied)
    if len(level.ranked) == 1:
        text = f"only {name(level.ranked[0])}"
    elif not shares:
        text = "no question was answered by all"
    elif level.has_best:
        others = f"all {behind} others" if behind > 1 else name(level.ranked[1])
        largest = max(level.p_corrected[1:])
        words = "p < 0.001" if largest < 0.001 else f"p at most {largest:.3f}"
        text = f"best is {shares[0]}, ahead of {others} (corrected {words})"
    else:
        places = [place for place, row in enumerate(level.ranked) if any(row is each for each in level.tied)]
        named, more = places[:NAMED], len(places) - NAMED
        listed = ", ".join(shares[place] for place in named) if more > 0 else " and ".join(shares[p] for p in named)
        text = f"{listed}{f' and {more} more' if more > 0 else ''} tie"
        text += f"; {behind} {'is' if behind == 1 else 'are'} behind" if behind else ""
    if level.not_ranked:
        fewer = ", ".join(f"{name(row)} ({row.metrics['n']})" for row in level.not_ranked)
        text += f"; not ranked, with fewer questions: {fewer}"
    return f"{level.at}: {text}"


def comparisons_of(rows: Sequence[TableRow]) -> int:
    """The largest number of comparisons for which a level's p-values are corrected; 0 if nothing is compared."""
    return max(map(_comparisons, _by_pool(rows)), default=0)


def best_records(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Each level as a dictionary, for the JSON output. best: None unless one line is significantly ahead of all."""
    varying, columns = _varying(rows), varying_columns([row for row in rows if row.competes])
    return [
        {
            "at": level.at,
            "best": name_of(level.ranked[0], varying, True) if level.has_best else None,
            "tied": [name_of(row, varying, True) for row in level.tied] if len(level.tied) > 1 else [],
            "most_accurate": level.ranked[0].setting["method"],
            "kept": level.ranked[0].kept,
            "budget": level.ranked[0].setting.get("budget"),
            "where": {name: level.ranked[0].setting.get(name) for name in columns},
            "accuracy": level.accuracies[0] if level.accuracies else None,
            "runner_up": level.ranked[1].setting["method"] if len(level.ranked) > 1 else None,
            "p_corrected": level.p_corrected[1] if len(level.p_corrected) > 1 else None,
            "comparisons": level.comparisons,
            "n": level.n,
        }
        for level in levels(rows)
    ]
