"""The parts of a report that say where its figures come from, and which figures there are not."""

from collections.abc import Sequence

from analysis.report.evaluation import Evaluation, Row, differing
from analysis.report.page import Html, join, tag

# What must be the same for two rows' accuracies to be of one kind is in the pool; these may differ within it.
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
    "protocol.conv": "conversation",
    "protocol.image_aspect": "pictures",
    "protocol.reading": "reading of answers",
    "protocol.batch_size": "batch size",
    "protocol.visual_tokens": "visual tokens of a picture",
    "protocol.text_tokens": "text tokens of the timed prompt",
    "protocol.latency": "timing",
}
# A difference in these makes times incomparable.
_OF_TIMES = ("device", "platform", "threads", "gpus", "versions", "protocol.latency", "protocol.text_tokens")


def warnings_of(evaluation: Evaluation) -> list[Html]:
    """What a reader has to know before comparing figures of one evaluation."""
    said = []
    differ = [name for name in _OF_TIMES if len(differing(evaluation.complete, name)) > 1]
    if differ:
        names = ", ".join(_FACTS[name] for name in differ)
        said.append(f"Times of these points were taken under different conditions ({names}): do not compare them. ")
    counts = sorted({row.point["n"] for row in evaluation.complete})
    if len(counts) > 1:
        said.append(
            f"The points answered different numbers of questions ({counts[0]} to {counts[-1]}). "
            "Differences are over the questions that both points answered. "
        )
    skipped = max((row.point.get("skipped", 0) for row in evaluation.complete), default=0)
    if skipped:
        said.append(f"Up to {skipped} questions were skipped, because their pictures could not be read. ")
    return [tag("p", text, class_="warn") for text in said]


def without_figures(rows: Sequence[Row]) -> Html:
    """The points that failed or are not finished, with what they failed of."""
    items = []
    for row in rows:
        if row.status == "failed":
            told = join(tag("b", row.label, dir="auto"), " failed: ", tag("code", row.point.get("error", "?")))
        elif row.status == "unfinished":
            told = join(tag("b", row.label, dir="auto"), f" is unfinished, {len(row.answers)} answers are stored.")
        else:
            continue
        items.append(tag("li", told))
    if not items:
        return Html("")
    return join(tag("h3", "Points without figures"), tag("ul", *items))


def how_it_was_run(evaluation: Evaluation) -> Html:
    """Commands, and a table of everything else that the points' provenance tells. A fact in which they differ names its
    points at each value."""
    commands = differing(evaluation.rows, "command")
    parts = [tag("pre", tag("code", command)) for command in commands]
    if not parts:
        parts = [tag("p", "No point tells the command it came from.", class_="note")]
    first = next(iter(evaluation.complete or evaluation.rows)).point
    facts = [tag("tr", tag("th", name, scope="row"), tag("td", value, dir="auto")) for name, value in _asked(first)]
    for fact, name in _FACTS.items():
        values = differing(evaluation.rows, fact)
        if values:
            facts.append(tag("tr", tag("th", name, scope="row"), tag("td", *_values(values))))
    return join(*parts, tag("div", tag("table", tag("tbody", *facts), class_="facts"), class_="frame"))


def _asked(point: dict) -> list[tuple[str, str]]:
    names = {"model": "model", "dtype": "dtype", "data": "data", "data_options": "data options"}
    names |= {"data_digest": "digest of the data", "questions": "digest of the questions asked"}
    return [(title, str(point[name])) for name, title in names.items() if name in point]


def _values(values: dict[str, list[str]]) -> list[object]:
    if len(values) == 1:
        return list(values)
    told: list[object] = []
    for value, labels in values.items():
        told.append(tag("div", value, tag("small", f" ({', '.join(labels)})")))
    return told
