"""The table of a paper: methods in rows, benchmarks in columns, and the mean share of the full model's accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.columns import CONTROLS, complete, pool_titles
from analysis.grouping import variants
from analysis.literature import published
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.results import EQUAL_COST

ROWS = ("method",)
COLUMNS = ("data", "model", "pool")
MEAN = "% of full"
# What is no method: it sets the frame in which the methods are compared, so it competes for no mark.
FRAME = (*CONTROLS, "random")


@dataclass
class Line:
    """One line of the table.

    accuracy: by column, in percent. spread: by column, the standard deviation over seeds, in percentage points, where
    there are several. of_full: the mean over all columns of the share of the full model's accuracy, in percent; None
    where a column is missing. seeds: the largest number of seeds averaged in a cell. source: where a published figure
    is from; "" = measured. fewer: whether it answered fewer questions than others of its column. marks: by column,
    "best" or "second".
    """

    label: str
    method: str
    accuracy: dict[str, float]
    spread: dict[str, float] = field(default_factory=dict)
    of_full: float | None = None
    seeds: int = 1
    source: str = ""
    fewer: bool = False
    marks: dict[str, str] = field(default_factory=dict)


@dataclass
class PaperTable:
    """Blocks of lines, each with the number of kept visual tokens (None: what is not reduced), and the columns.

    notes: what a reader must know of the blocks, in sentences.
    """

    columns: list[str]
    blocks: list[tuple[int | None, list[Line]]]
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """The sources of published lines, in order; the n-th is marked by the number n."""
        return list(dict.fromkeys(line.source for _, lines in self.blocks for line in lines if line.source))


def paper_table(
    results: pd.DataFrame, columns: str = "data", budget: int | None = None, literature: bool = True
) -> PaperTable:
    """Arranges complete points of `load_results` as a paper does.

    results     rows of one or several folders
    columns     data, model or pool: what a column is; points that differ in more are refused
    budget      only points with this many kept visual tokens; None: one block for each number
    literature  add the published figures of the same method, kept tokens, model and data, marked as such

    Several seeds of one setting are one line: their mean, and their standard deviation. In each block and column, the
    best accuracy of the methods is marked, and the second best; controls and published figures compete for neither, and
    equal accuracies share a mark. A point that answered fewer questions than others of its column says so, competes for
    no mark and has no share of full.

    Raises TokenselError for an unknown value, no complete point, or two points that would share a cell.
    """
    if columns not in COLUMNS:
        raise TokenselError(f"columns={columns}: choose from {', '.join(COLUMNS)}")
    rows = complete(results)
    kept = rows["kept"].where(~rows["method"].isin(CONTROLS))
    if budget is not None:
        rows, kept = rows[kept.isna() | (kept == budget)], kept[kept.isna() | (kept == budget)]
    if rows.empty or (budget is not None and kept.isna().all()):
        raise TokenselError("results: hold no complete point" + ("" if budget is None else f" with budget={budget}"))
    names = rows["pool"].map(pool_titles(rows)) if columns == "pool" else rows[columns].astype(object)
    rows = rows.assign(column=names, block=kept, label=_labels(rows))
    asked = rows["n"] + rows["skipped"].fillna(0)
    rows = rows.assign(fewer=asked < asked.groupby(rows["column"]).transform("max"))
    rows["label"] += rows["n"].map(" ({} questions)".format).where(rows["fewer"], "")
    _refuse_mixed(rows, columns)
    order = list(dict.fromkeys(rows["column"]))
    blocks: list[tuple[int | None, list[Line]]] = []
    for number, same in rows.groupby("block", dropna=False, sort=True):
        count = None if pd.isna(number) else int(str(number))
        lines = [_line(part) for _, part in same.groupby("label", sort=False)]
        if literature and count is not None:
            lines += _published_lines(rows, count, order)
        blocks.append((count, lines))
    blocks.sort(key=lambda block: (block[0] is not None, -(block[0] or 0)))
    full = {line.label: line for count, lines in blocks if count is None for line in lines}.get("full")
    for kept_tokens, lines in blocks:
        for line in lines:
            line.of_full = None if line.fewer else _share_of(full, line, order)
        if kept_tokens is not None:
            _mark(_competing(lines), order)
    return PaperTable(order, blocks, [*_control_notes(blocks, order), *_cost_notes(rows), _question_note(rows)])


def _competing(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if not line.source and not line.fewer and line.method not in FRAME]


def _control_notes(blocks: Sequence[tuple[int | None, list[Line]]], columns: Sequence[str]) -> list[str]:
    """A sentence for each control that is not below the best method of its block, which no mark shows."""
    notes = []
    for kept, lines in blocks:
        shares = {each: [float(text) for line in _competing(lines) if (text := figure(line, each))] for each in columns}
        best = {column: max(values) for column, values in shares.items() if values}
        for line in lines:
            control = line.method in FRAME and not line.source and not line.fewer
            ahead = [each for each in best if control and float(figure(line, each) or -1) >= best[each]]
            if ahead:
                at = f"with {kept} visual tokens it is not below the best method in {', '.join(ahead)}"
                notes.append(f"{line.label} is a control and gets no mark; {at}.")
    return notes


def _question_note(rows: pd.DataFrame) -> str:
    asked = (rows["n"] + rows["skipped"].fillna(0)).groupby(rows["column"], sort=False).max()
    return f"Questions: {', '.join(f'{column} {count}' for column, count in asked.items())}."


def _cost_notes(rows: pd.DataFrame) -> list[str]:
    """A sentence for each block whose lines cost different shares of the full model's FLOPs."""
    notes = []
    for number, same in rows.dropna(subset=["block", "flops_ratio"]).groupby("block", sort=True):
        by_column = [(float(part.min()), float(part.max())) for _, part in same.groupby("column")["flops_ratio"]]
        if any(high > (1 + EQUAL_COST) * low for low, high in by_column):
            low, high = min(low for low, _ in by_column), max(high for _, high in by_column)
            span = f"{100 * low:.0f} to {100 * high:.0f}% of the full model's FLOPs"
            notes.append(f"Lines with {int(str(number))} visual tokens need {span}: they are not equal in cost.")
    return notes


def _labels(rows: pd.DataFrame) -> pd.Series:
    """The method, and in brackets the settings in which points of it differ; seeds and code do not count."""
    settings = variants(rows, ignore=("seed", "code"))
    return rows["method"].str.cat(settings.map(lambda text: f" ({text})" if text else ""))


def _refuse_mixed(rows: pd.DataFrame, columns: str) -> None:
    """Raises TokenselError where one column holds points that are not comparable, or one cell two points."""
    for name, same in rows.groupby("column", sort=False):
        if same["pool"].nunique() > 1:
            titles = "; ".join(sorted(pool_titles(same).values()))
            raise TokenselError(f"columns={columns}: {name} has results of several kinds ({titles}); use columns=pool")
    doubled = rows[rows.duplicated(["column", "block", "label", "seed"], keep=False)]
    if len(doubled):
        first = doubled.iloc[0]
        raise TokenselError(
            f"results: {first['label']} has two points in {first['column']}, of different code; "
            "name one folder of results only, or start its sweep again"
        )


def _line(part: pd.DataFrame) -> Line:
    # Seeds are one row already, unless a frame of single points was given.
    by_column = part.groupby("column", sort=False)
    accuracy = {str(column): 100 * float(mean) for column, mean in by_column["accuracy"].mean().items()}
    spreads = by_column["accuracy"].std().fillna(by_column["accuracy_sd"].first()).dropna()
    spread = {str(column): 100 * float(value) for column, value in spreads.items()}
    seeds = part["seeds"].map(lambda text: 1 if pd.isna(text) else len(text.split(", "))).groupby(part["column"]).sum()
    first = part.iloc[0]
    label, method, fewer = str(first["label"]), str(first["method"]), bool(first["fewer"])
    return Line(label, method, accuracy, spread, seeds=int(seeds.max()), fewer=fewer)


def _published_lines(rows: pd.DataFrame, kept: int, columns: Sequence[str]) -> list[Line]:
    """Published figures at this number of kept tokens for the model and data of a column."""
    lines: dict[tuple[str, str], Line] = {}
    found = published()
    found = found[(found["kept"] == kept) & found["accuracy"].notna() & (found["setting"] == "")]
    for column in columns:
        first = rows[rows["column"] == column].iloc[0]
        same = found["model"].map(_plain).eq(_plain(first["model"])) & found["data"].map(_plain).eq(
            _plain(first["data"])
        )
        for row in found[same].to_dict("records"):
            key = str(row["method"]), str(row["source"])
            line = lines.setdefault(key, Line(key[0], key[0], {}, source=key[1]))
            line.accuracy[column] = 100 * float(row["accuracy"])
    return list(lines.values())


def _plain(name: object) -> str:
    """A model's or data set's name without folders, case, punctuation and the suffixes of a checkpoint's format."""
    text = "".join(letter for letter in str(name).rsplit("/", 1)[-1].lower() if letter.isalnum())
    return text.removesuffix("hf").removesuffix("img")


def _share_of(full: Line | None, line: Line, columns: Sequence[str]) -> float | None:
    if full is None or any(column not in line.accuracy or not full.accuracy.get(column) for column in columns):
        return None
    return 100 * sum(line.accuracy[column] / full.accuracy[column] for column in columns) / len(columns)


def _mark(lines: Sequence[Line], columns: Sequence[str]) -> None:
    """Marks the best and the second best accuracy of each column, as they are shown: with one decimal place."""
    for column in (*columns, MEAN):
        values = {text for line in lines if (text := figure(line, column))}
        ranked = sorted(values, key=float, reverse=True)
        for line in lines:
            for text, mark in zip(ranked, ("best", "second"), strict=False):
                if figure(line, column) == text and len(lines) > 1:
                    line.marks[column] = mark


def figure(line: Line, column: str) -> str:
    """A line's figure in a column, or its mean share of the full model, with one decimal place; "" if it has none."""
    value = line.of_full if column == MEAN else line.accuracy.get(column)
    return "" if value is None else f"{value:.1f}"
