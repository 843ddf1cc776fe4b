"""States the main results in sentences: how methods compare with FastV and random choice, and which are best."""

from collections.abc import Sequence

from analysis.report.evaluation import Evaluation, TableRow
from analysis.report.page import Html, join, tag

SIGNIFICANT = 0.05
MAX_LISTED = 4
NAMES = {"full": "the full model", "fastv": "FastV", "random": "random choice", "downsample": "downsampling"}


def findings(evaluation: Evaluation) -> Html:
    """Writes the findings of one evaluation as markup."""
    rows = evaluation.complete
    if not rows:
        return tag("p", "No point of this evaluation is complete, so there is nothing to compare yet.", class_="lead")
    reduced = [row for row in rows if not row.is_control and row.kept is not None and row.method != "downsample"]
    ranked = [sentence.partition(": ") for sentence in evaluation.ranking]
    items = [tag("li", tag("span", at, class_="at"), tag("span", f"{text}.")) for at, _, text in ranked]
    return join(
        tag("p", overall(evaluation)),
        tag("p", against(reduced, "fastv")),
        tag("p", against(reduced, "random")),
        tag("p", against(reduced, "downsample")) if any("downsample" in row.versus for row in reduced) else None,
        tag("ul", *items, class_="findings", dir="auto") if items else None,
        tag("p", _caution(reduced), class_="note"),
    )


def overall(evaluation: Evaluation) -> str:
    """Writes one sentence on the accuracies to compare with: the full model, no image, and chance."""
    rows = evaluation.complete
    counts = sorted({row.point["n"] for row in rows})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    first = rows[0].point
    parts = []
    for method, condition in (("full", "with all visual tokens"), ("no_image", "without the picture")):
        if row := next((row for row in rows if row.method == method), None):
            parts.append(f"{_accuracy(row)} {condition}")
    if (chance := first.get("chance")) is not None:
        parts.append(f"{_percent(chance)} by guessing")
    accuracies = ", ".join(parts) or "the full model and no image were not run"
    model, data = first.get("model", "the model"), first.get("data", "its data set")
    return f"Accuracy of {model} on {count} questions of {data}: {accuracies}."


def against(reduced: Sequence[TableRow], reference: str) -> str:
    """Summarises all comparisons with a reference at the same kept, corrected for their number."""
    name = NAMES[reference]
    others = [other for other in ("fastv", "random") if other != reference]
    compared = [row for row in reduced if reference in row.versus and row.method not in others]
    if not compared:
        return f"No method can be compared with {name}: no point of {name} is complete at the same kept."
    significant = [row for row in compared if row.versus[reference]["p_holm"] < SIGNIFICANT]
    # FastV and random choice are compared with each other only in the list by kept.
    all_compared = len(compared) == len([row for row in reduced if reference in row.versus])
    apart_from = "" if all_compared else f" (not counting {' and '.join(NAMES[other] for other in others)})"
    count = f"{len(compared)} comparison{'s' if len(compared) > 1 else ''} with {name} at the same kept{apart_from}"
    if not significant:
        return (
            f"No method differs significantly from {name}: none of {count} has a corrected p below {SIGNIFICANT}. "
            f"{_detectable(compared, reference)}"
        ).rstrip()
    significant.sort(key=lambda row: -abs(row.versus[reference]["difference"]))
    listed = "; ".join(f"{row.label} is {_ahead(row, reference)}" for row in significant[:MAX_LISTED])
    if len(significant) > MAX_LISTED:
        ahead = sum(row.versus[reference]["difference"] > 0 for row in significant)
        listed = f"{ahead} ahead, {len(significant) - ahead} behind. The largest differences: {listed}"
    others_left = len(compared) - len(significant)
    rest = ""
    if others_left:
        rest = " The other one is not" if others_left == 1 else f" The other {others_left} are not"
        rest += f" significant. {_detectable(compared, reference)}".rstrip()
    verb = "is" if len(significant) == 1 else "are"
    return f"Of {count}, {len(significant)} {verb} significant after Holm's correction: {listed}.{rest}"


def _detectable(compared: Sequence[TableRow], reference: str) -> str:
    """Writes one sentence on the smallest differences that this many questions can show."""
    sizes = [found["detectable"] for row in compared if "detectable" in (found := row.versus[reference])]
    if not sizes and any("b" not in row.versus[reference] for row in compared):
        return ""  # none is known for several seeds
    if not sizes:
        return "This many questions are too few to show any difference."
    low, high = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    span = low if low == high else f"{low} to {high}"
    questions = compared[0].versus[reference]["n"]
    return (
        f"With {questions:.0f} questions, a test finds a true difference of about {span} points in 4 of 5 runs, and "
        "seldom a smaller one."
    )


def _ahead(row: TableRow, reference: str) -> str:
    found = row.versus[reference]
    side = "ahead" if found["difference"] > 0 else "behind"
    return f"{abs(found['difference']):.1f} points {side} ({_corrected(found['p_holm'])})"


def _corrected(p: float) -> str:
    return probability(p).replace("p ", "corrected p ", 1)


def probability(p: float) -> str:
    """Formats a p-value: "p = 0.012", or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _caution(reduced: Sequence[TableRow]) -> str:
    text = (
        "Brackets contain 95% intervals: Wilson's for an accuracy, Agresti and Min's for a difference on the same "
        "questions. p comes from McNemar's exact test (where answers are right in part, from a paired bootstrap) "
        "and is corrected by Holm's method, over all comparisons with the same reference."
    )
    if len(reduced) > 1:
        text += (
            " Points tie if the best is not significantly ahead of them, corrected for all comparisons with a best "
            "point; the highest accuracy was chosen on these same questions, so it is probably overstated."
        )
    if any(row.seeds for row in reduced):
        text += (
            " Several seeds are one row: their mean accuracy, \u00b1 its standard deviation; their p comes from a "
            "sign-flip test over questions and, where seeds differ, over seeds too."
        )
    return text


def _accuracy(row: TableRow) -> str:
    point = row.point
    return f"{_percent(point['accuracy'])} [{100 * point['ci_low']:.1f}, {100 * point['ci_high']:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
