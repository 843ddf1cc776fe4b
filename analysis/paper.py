"""The table of a paper: methods in rows, benchmarks in columns, and the mean share of the full model's accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.columns import CONTROLS, complete, pool_titles
from analysis.grouping import variants
from analysis.literature import published
from analysis.paper_blocks import Block, block_name, block_order, blocks_of
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.results import EQUAL_COST

ROWS = ("method",)
COLUMNS = ("data", "model", "pool")
MEAN = "% of full"
# What is no method: it sets the frame in which the methods are compared, so it competes for no mark.
FRAME = (*CONTROLS, "random", "downsample")


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
    """Blocks of lines that are compared with each other (None: what is not reduced), and the columns.

    notes: what a reader must know of the blocks, in sentences.
    """

    columns: list[str]
    blocks: list[tuple[Block, list[Line]]]
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """The sources of published lines, in order; the n-th is marked by the number n."""
        return list(dict.fromkeys(line.source for _, lines in self.blocks for line in lines if line.source))


def paper_table(
    results: pd.DataFrame, columns: str = "data", budget: Block = None, literature: bool = True
) -> PaperTable:
    """Arranges complete points of `load_results` as a paper does.

    results     rows of one or several folders
    columns     data, model or pool: what a column is; points that differ in more are refused
    budget      only points of this block: so many kept visual tokens, "25%", "average_tokens:64" or "flops:0.4"; None:
                all blocks. Points whose kept was solved for a budget are compared at the budget
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
    of_rows = pd.Series([blocks_of(row) for row in rows.to_dict("records")], index=rows.index, dtype=object)
    rows = rows.assign(block=of_rows).explode("block", ignore_index=True)
    there = sorted({each for each in rows["block"] if not pd.isna(each)}, key=block_order)
    if rows.empty:
        raise TokenselError("results: hold no complete point")
    if budget is not None and budget not in there:
        listed = ", ".join(map(str, there)) or "none"
        raise TokenselError(f"results: hold no complete point with budget={budget}; they have {listed}")
    if budget is not None:
        rows = rows[rows["block"].isna() | (rows["block"] == budget)]
    names = rows["pool"].map(pool_titles(rows)) if columns == "pool" else rows[columns].astype(object)
    rows = rows.assign(column=names, label=_labels(rows))
    asked = rows["n"] + rows["skipped"].fillna(0)
    rows = rows.assign(fewer=asked < asked.groupby(rows["column"]).transform("max"))
    rows["label"] += rows["n"].map(" ({} questions)".format).where(rows["fewer"], "")
    _refuse_mixed(rows, columns)
    order = list(dict.fromkeys(rows["column"]))
    blocks = []
    for block in sorted({None if pd.isna(each) else each for each in rows["block"]}, key=block_order):
        same = rows[rows["block"].isna() if block is None else rows["block"] == block]
        lines = [_line(part) for _, part in same.groupby("label", sort=False)]
        lines.sort(key=lambda line: (line.method in FRAME, line.method))
        if literature and isinstance(block, int):
            lines += _published_lines(rows, block, order)
        blocks.append((block, lines))
    full = {line.label: line for block, lines in blocks if block is None for line in lines}.get("full")
    for block, lines in blocks:
        for line in lines:
            line.of_full = None if line.fewer else _share_of(full, line, order)
        if block is not None:
            _mark(_competing(lines), order)
    return PaperTable(order, blocks, [*_control_notes(blocks, order), *_cost_notes(rows), _question_note(rows)])


def _competing(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if not line.source and not line.fewer and line.method not in FRAME]


def _control_notes(blocks: Sequence[tuple[Block, list[Line]]], columns: Sequence[str]) -> list[str]:
    """A sentence for each control that is not below the best method of its block, which no mark shows."""
    notes = []
    for block, lines in blocks:
        shares = {each: [float(text) for line in _competing(lines) if (text := figure(line, each))] for each in columns}
        best = {column: max(values) for column, values in shares.items() if values}
        for line in lines:
            control = line.method in FRAME and not line.source and not line.fewer
            ahead = [each for each in best if control and float(figure(line, each) or -1) >= best[each]]
            if ahead:
                at = f"with {block_name(block)} it is not below the best method in {', '.join(ahead)}"
                notes.append(f"{line.label} is a control and gets no mark; {at}.")
    return notes


def _question_note(rows: pd.DataFrame) -> str:
    asked = (rows["n"] + rows["skipped"].fillna(0)).groupby(rows["column"], sort=False).max()
    return f"Questions: {', '.join(f'{column} {count}' for column, count in asked.items())}."


def _cost_notes(rows: pd.DataFrame) -> list[str]:
    """A sentence for each block whose lines cost different shares of the full model's FLOPs."""
    notes = []
    rows = rows[rows["method"] != "downsample"]  # it saves nothing where every picture has as many visual tokens
    for block, same in rows.dropna(subset=["block", "flops_ratio"]).groupby("block", sort=False):
        by_column = [(float(part.min()), float(part.max())) for _, part in same.groupby("column")["flops_ratio"]]
        if any(high > (1 + EQUAL_COST) * low for low, high in by_column):
            low, high = min(low for low, _ in by_column), max(high for _, high in by_column)
            span = f"{100 * low:.0f} to {100 * high:.0f}% of the full model's FLOPs"
            name = block_name(block if isinstance(block, str) else int(str(block)))
            notes.append(f"Lines with {name} need {span}: they are not equal in cost.")
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
