"""The table of a paper as CSV, Markdown and LaTeX."""

import csv
import io

from analysis.paper import MEAN, Line, PaperTable, figure
from analysis.paper_blocks import block_name


def as_csv(table: PaperTable) -> str:
    """The table as CSV: kept, method, seeds, source, one column for each benchmark, % of full.

    Where a line has several seeds, each benchmark's standard deviation over seeds follows it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spread = any(line.spread for _, lines in table.blocks for line in lines)
    names = [name for column in table.columns for name in (column, f"{column} sd")[: 2 if spread else 1]]
    writer.writerow(["kept", "method", "seeds", "source", *names, MEAN])
    for kept, lines in table.blocks:
        for line in lines:
            cells = [[figure(line, column), _deviation(line, column)][: 2 if spread else 1] for column in table.columns]
            values = [value for cell in cells for value in cell]
            fixed = ["" if kept is None else kept, line.label, line.seeds, line.source]
            writer.writerow([*fixed, *values, figure(line, MEAN)])
    return text.getvalue()


def _deviation(line: Line, column: str) -> str:
    return f"{line.spread[column]:.1f}" if column in line.spread else ""


def as_markdown(table: PaperTable) -> str:
    """The table in Markdown: the best in bold, the second in italics, published figures with a footnote's number."""
    lines = [["method", "kept", *table.columns, MEAN]]
    for kept, block in table.blocks:
        for line in block:
            cells = [_markdown_cell(line, column) for column in (*table.columns, MEAN)]
            name = line.label
            if line.source:
                name += f" (published) [{table.sources.index(line.source) + 1}]"
            lines.append([name, "" if kept is None else str(kept), *cells])
    escaped = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
    rule = ["---", "---:", *["---:"] * (len(table.columns) + 1)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in (escaped[0], rule, *escaped[1:]))
    notes = [f"[{index}] published: {source}" for index, source in enumerate(table.sources, 1)] + table.notes
    return "\n".join([text, *(["", *notes] if notes else [])]) + "\n"


def _markdown_cell(line: Line, column: str) -> str:
    marks = {"best": "**{}**", "second": "*{}*"}
    deviation = _deviation(line, column)
    return marks.get(line.marks.get(column, ""), "{}").format(figure(line, column)) + (deviation and f" ±{deviation}")


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """The text with every character that LaTeX would interpret written as that character."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def as_latex(table: PaperTable) -> str:
    """The table as a LaTeX tabular for the package booktabs: the best in bold, the second underlined.

    Published figures are marked with a number; what they are from stands below the tabular.
    """
    width = len(table.columns) + 2
    head = " & ".join(["Method", *map(escape_latex, table.columns), escape_latex(MEAN)])
    lines = [r"\begin{tabular}{l" + "r" * (width - 1) + "}", r"\toprule", head + r" \\"]
    for kept, block in table.blocks:
        lines.append(r"\midrule")
        if kept is not None:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape_latex(block_name(kept))}}}}} \\")
        for line in block:
            cells = [_latex_cell(line, column) for column in (*table.columns, MEAN)]
            name = escape_latex(line.label)
            if line.source:
                name += rf" (published)\textsuperscript{{{table.sources.index(line.source) + 1}}}"
            lines.append(" & ".join([name, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [
        rf"\textsuperscript{{{index}}}\,published: {escape_latex(source)}."
        for index, source in enumerate(table.sources, 1)
    ] + [escape_latex(note) for note in table.notes]
    if notes:
        lines += ["", r"\smallskip", r"{\footnotesize " + " ".join(notes) + "}"]
    return "\n".join(lines) + "\n"


def _latex_cell(line: Line, column: str) -> str:
    marks = {"best": r"\textbf{%s}", "second": r"\underline{%s}"}
    deviation = _deviation(line, column)
    small = rf" {{\footnotesize $\pm$ {deviation}}}" if deviation else ""
    return marks.get(line.marks.get(column, ""), "%s") % (figure(line, column) or "--") + small
