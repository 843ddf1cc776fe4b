"""The parts of a report about its figures: warnings, missing figures, and how the figures were computed."""

from collections.abc import Sequence

from analysis.report.evaluation import Evaluation, TableRow, labels_by_value
from analysis.report.page import Html, join, tag

# Facts of the provenance that may differ within one pool, and their titles.
_FACTS = {
    "device": "device",
    "platform": "platform",
    "threads": "threads",
    "gpus": "GPUs",
    "versions": "versions",
    "commit": "commit",
    "model.revision": "model revision",
    "protocol.scoring": "scoring",
    "protocol.prompt": "prompt",
    "protocol.conv": "conversation template",
    "protocol.image_aspect": "aspect of pictures",
    "protocol.reading": "reading of answers",
    "protocol.batch_size": "batch size",
    "protocol.visual_tokens": "visual tokens per picture or video",
    "protocol.video_grid": "frames, rows and columns of them",
    "protocol.text_tokens": "text tokens of the timed prompt",
    "protocol.latency": "timing",
}
# If one of these differs, times cannot be compared.
_TIMING_FACTS = ("device", "platform", "threads", "gpus", "versions", "protocol.latency", "protocol.text_tokens")


def warnings_of(evaluation: Evaluation) -> list[Html]:
    """Returns what a reader must know before comparing figures of one evaluation."""
    warnings = []
    differ = [name for name in _TIMING_FACTS if len(labels_by_value(evaluation.complete, name)) > 1]
    if differ:
        names = ", ".join(_FACTS[name] for name in differ)
        warnings.append(f"The times were measured under different conditions ({names}): do not compare them.")
    counts = sorted({row.point["n"] for row in evaluation.complete})
    if len(counts) > 1:
        warnings.append(
            f"The points answered different numbers of questions ({counts[0]} to {counts[-1]}). "
            "Each difference covers only the questions that both points answered."
        )
    skipped = max((row.point.get("skipped", 0) for row in evaluation.complete), default=0)
    if skipped:
        warnings.append(f"Up to {skipped} questions were skipped because their pictures could not be read.")
    return [tag("p", text, class_="warn") for text in warnings]


def without_figures(rows: Sequence[TableRow]) -> Html:
    """Lists the points that failed, with the error, and those that are unfinished."""
    items = []
    for row in rows:
        if row.status == "failed":
            text = join(tag("b", row.label, dir="auto"), " failed: ", tag("code", row.point.get("error", "?")))
        elif row.status == "unfinished":
            text = join(tag("b", row.label, dir="auto"), f" is unfinished; {len(row.answers)} answers are stored.")
        else:
            continue
        items.append(tag("li", text))
    if not items:
        return Html("")
    return join(tag("h3", "Points without figures"), tag("ul", *items))


def how_it_was_run(evaluation: Evaluation) -> Html:
    """Shows the commands, and a table of the other facts in the points' provenance.

    The commands are sorted, so that their order in time does not change the page. If a fact differs between points,
    each of its values lists its points.
    """
    commands = sorted(labels_by_value(evaluation.rows, "command"))
    parts = [tag("pre", tag("code", command)) for command in commands]
    if not parts:
        parts = [tag("p", "No point states the command that computed it.", class_="note")]
    first = next(iter(evaluation.complete or evaluation.rows)).point
    facts = [tag("tr", tag("th", name, scope="row"), tag("td", value, dir="auto")) for name, value in _identity(first)]
    for fact, name in _FACTS.items():
        values = labels_by_value(evaluation.rows, fact)
        if values:
            facts.append(tag("tr", tag("th", name, scope="row"), tag("td", *_values(values))))
    return join(*parts, tag("div", tag("table", tag("tbody", *facts), class_="facts"), class_="frame"))


def _identity(point: dict) -> list[tuple[str, str]]:
    names = {"model": "model", "dtype": "dtype", "data": "data", "data_options": "data options"}
    names |= {"data_digest": "digest of the data set", "questions": "digest of the questions"}
    return [(title, str(point[name])) for name, title in names.items() if name in point]


def _values(values: dict[str, list[str]]) -> list[object]:
    if len(values) == 1:
        return list(values)
    return [tag("div", value, tag("small", f" ({', '.join(labels)})")) for value, labels in values.items()]
