"""The section on what questions need the picture for: accuracy on blind, coarse and hard questions."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from analysis.needs import NEEDS, WITHOUT_DOWNSAMPLE
from analysis.report.evaluation import Evaluation
from analysis.report.page import Html, join, tag

NOTE = (
    "Blind: answered without the picture, by knowledge or by luck. Coarse: answered when the picture shows no more "
    "than as many patches as are kept (downsample). Hard: all others. On the hard ones, a method must show what its "
    "choice of tokens is worth, and the full model what can be reached. Brackets contain 95% intervals. After "
    "VTC-Bench (Liao et al. 2025), which takes only the questions that the full model answers."
)
_WITHOUT = (
    "Blind questions are answered without the picture. No point of downsample at these kept was run, so the others are "
    "not told apart: controls=[full,no_image,fastv,random,downsample] does that."
)


def needs_view(evaluation: Evaluation, colors: Mapping[str, str]) -> Html:
    """A sentence and a table. colors: CSS class of each method."""
    cells = evaluation.needs
    if not cells:
        return tag("p", "No point of no_image is complete, so blind questions are not known.", class_="note")
    kinds = NEEDS if cells[0].get("at_kept") is not None else WITHOUT_DOWNSAMPLE
    head = tag("tr", *(tag("th", title, scope="col", class_="plain") for title in ("point", *kinds)))
    body = [line for part in _parts(cells) for line in _lines(part, kinds, evaluation, colors)]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="needs")
    frame = tag("div", table, class_="frame", tabindex="0", role="region", aria_label=f"Needs of {evaluation.title}")
    return join(
        tag("p", summary(evaluation)),
        tag("p", NOTE if kinds == NEEDS else _WITHOUT, class_="note"),
        frame,
    )


def summary(evaluation: Evaluation) -> str:
    """Writes how many questions are of which kind, and what the full model and methods answer of the last."""
    part = _parts(evaluation.needs)[-1]
    first = max(_points(part), key=lambda cells: cells[0]["of"])
    kept, of = first[0].get("at_kept"), first[0]["of"]
    shares = [f"{100 * cell['n'] / of:.1f}%" for cell in first] if of else ["0%"] * len(first)
    text = f"Of {of} questions, {shares[0]} are blind: they are answered without the picture."
    if kept is not None:
        text += f" At {kept} kept, another {shares[1]} are coarse, as downsampling is enough, and {shares[2]} are hard."
    scored = [cells[-1] for cells in _points(part) if cells[-1]["n"]]
    full = next((cell["accuracy"] for cell in scored if cell["method"] == "full"), None)
    accuracies = sorted(cell["accuracy"] for cell in scored if cell["method"] != "full")
    others = list(dict.fromkeys(f"{100 * share:.1f}%" for share in accuracies))
    said = [f"the full model answers {100 * full:.1f}%"] if full is not None else []
    said += [f"methods answer {others[0]}" + (f" to {others[-1]}" if others[1:] else "")] if others else []
    which = "hard ones" if kept is not None else "others"
    return f"{text} Of the {first[-1]['n']} {which}, {' and '.join(said)}." if said else text


def _parts(cells: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The cells of each downsample, by rising kept."""
    ordered = sorted(cells, key=lambda cell: cell.get("at_kept") or 0)
    return [list(part) for _, part in groupby(ordered, key=lambda cell: cell.get("at_kept"))]


def _points(part: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The cells of each point, full first."""
    points: dict[str, list[dict[str, Any]]] = {}
    for cell in part:
        points.setdefault(cell["key"], []).append(cell)
    return sorted(points.values(), key=lambda cells: cells[0]["method"] != "full")


def _lines(
    part: Sequence[dict[str, Any]], kinds: Sequence[str], evaluation: Evaluation, colors: Mapping[str, str]
) -> Iterator[Html]:
    points = _points(part)
    most = [max(cells[place]["n"] for cells in points) for place in range(len(kinds))]
    kept = part[0].get("at_kept")
    counts = [tag("td", f"n = {count}") for count in most]
    name = "all kept" if kept is None else f"{kept} kept"
    yield tag("tr", tag("th", name, scope="rowgroup", class_="plain"), *counts, class_="group")
    for cells in points:
        method = cells[0]["method"]
        swatch = tag("span", class_=f"swatch {colors[method]}", aria_hidden="true")
        head = tag("th", join(swatch, _label(evaluation, cells[0])), scope="row", dir="auto")
        figures = [tag("td", _figure(cell, count)) for cell, count in zip(cells, most, strict=True)]
        yield tag("tr", head, *figures, class_="control" if method == "full" else None)


def _figure(cell: Mapping[str, Any], most: int) -> Html | None:
    if not cell["n"]:
        return None
    limits = f"[{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}]"
    fewer = "" if cell["n"] == most else f" n = {cell['n']}"
    return join(f"{100 * cell['accuracy']:.1f}%", tag("small", limits + fewer))


def _label(evaluation: Evaluation, cell: Mapping[str, Any]) -> str:
    """The point's name; without kept, where the line above says it."""
    row = next(row for row in evaluation.rows if row.point["key"] == cell["key"])
    return row.label if cell.get("at_kept") is None else row.series
