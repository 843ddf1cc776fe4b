"""States the main results in sentences: the best method at each kept or budget, its lead, and its significance."""

from collections.abc import Sequence
from itertools import groupby

from analysis.report.evaluation import Evaluation, TableRow
from analysis.report.page import Html, join, tag

SIGNIFICANT = 0.05
MAX_LISTED = 4
NAMES = {"full": "the full model", "fastv": "FastV", "random": "random choice"}


def findings(evaluation: Evaluation) -> Html:
    """Writes the findings of one evaluation as markup."""
    rows = evaluation.complete
    if not rows:
        return tag("p", "No point of this evaluation is complete, so there is nothing to compare yet.", class_="lead")
    reduced = [row for row in rows if not row.is_control and row.kept is not None]
    by_cost = sorted(reduced, key=lambda row: row.at[::-1])
    items = [
        tag("li", tag("span", at, class_="at"), tag("span", *at_kept(list(same))))
        for (at, _), same in groupby(by_cost, key=lambda row: row.at)
    ]
    return join(
        tag("p", overall(evaluation), class_="lead"),
        tag("p", against(reduced, "fastv")),
        tag("p", against(reduced, "random")),
        tag("ul", *items, class_="findings") if items else None,
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
    others = {"fastv", "random"} - {reference}
    compared = [row for row in reduced if reference in row.versus and row.method not in others]
    if not compared:
        return f"No method can be compared with {name}: no point of {name} is complete at the same kept."
    significant = [row for row in compared if row.versus[reference]["p_holm"] < SIGNIFICANT]
    # FastV and random choice are compared with each other only in the list by kept.
    all_compared = len(compared) == len([row for row in reduced if reference in row.versus])
    apart_from = "" if all_compared else f" (not counting {NAMES[others.pop()]})"
    count = f"{len(compared)} comparison{'s' if len(compared) > 1 else ''} with {name} at the same kept{apart_from}"
    if not significant:
        return (
            f"None of {count} is significant (Holm-corrected p of at least {SIGNIFICANT}): these answers do not show "
            f"whether any method differs from {name}. {_detectable(compared, reference)}"
        )
    significant.sort(key=lambda row: -abs(row.versus[reference]["difference"]))
    listed = "; ".join(f"{row.label} is {_ahead(row, reference)}" for row in significant[:MAX_LISTED])
    if len(significant) > MAX_LISTED:
        ahead = sum(row.versus[reference]["difference"] > 0 for row in significant)
        listed = f"{ahead} ahead, {len(significant) - ahead} behind. The largest differences: {listed}"
    others_left = len(compared) - len(significant)
    rest = ""
    if others_left:
        rest = " The other one is not" if others_left == 1 else f" The other {others_left} are not"
        rest += f" significant. {_detectable(compared, reference)}"
    verb = "is" if len(significant) == 1 else "are"
    return f"Of {count}, {len(significant)} {verb} significant after Holm's correction: {listed}.{rest}"


def at_kept(same: Sequence[TableRow]) -> list[Html | None]:
    """Writes the findings at one kept: the most accurate row, then its comparisons, one line each."""
    ranked = sorted(same, key=lambda row: (-row.point["accuracy"], row.method in ("fastv", "random"), row.label))
    best = ranked[0]
    tied = [row for row in ranked if row.point["accuracy"] == best.point["accuracy"]]
    if len(tied) > 1:
        names = _listed([row.series for row in tied])
        head = f"{names} share the highest accuracy, {_accuracy(best)}. Comparisons of {best.series}:"
    else:
        head = f"{best.series} has the highest accuracy, {_accuracy(best)}."
    lines: list[str | None] = []
    if best.method == "random":
        lines.append("No method is more accurate than random choice.")
    lines += [_versus(best, reference) for reference in NAMES]
    other = next((row for row in ranked if row.method not in ("fastv", "random")), None)
    if best.method in ("fastv", "random") and other is not None:
        lines.append(f"The most accurate of the other methods is {other.series}, {_accuracy(other)}.")
        lines.append(_versus(other, best.method))
    return [tag("b", head), *(tag("span", text, class_="line") for text in lines if text)]


def _versus(row: TableRow, reference: str) -> str | None:
    """Writes one comparison. Only a difference that is significant after correction is stated as a fact."""
    found = row.versus.get(reference)
    if found is None:
        return None
    name, points, p = NAMES[reference], found["difference"], found["p_value"]
    limits = f"[{found['diff_low']:+.1f}, {found['diff_high']:+.1f}]"
    if found["p_holm"] < SIGNIFICANT:
        side = "ahead of" if points > 0 else "behind"
        return _minus(f"{abs(points):.1f} points {side} {name} {limits}, {probability(p)}.")
    if p < SIGNIFICANT:
        return _minus(
            f"{points:+.1f} points against {name} {limits}, {probability(p)} for this test alone, but "
            f"{probability(found['p_holm'])} after correction for the number of comparisons."
        )
    detectable = f"; detectable: about {found['detectable']:.1f} points" if "detectable" in found else ""
    return _minus(f"No significant difference to {name}: {points:+.1f} points {limits}, {probability(p)}{detectable}.")


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def _detectable(compared: Sequence[TableRow], reference: str) -> str:
    """Writes one sentence on the smallest differences that this many questions can show."""
    sizes = [found["detectable"] for row in compared if "detectable" in (found := row.versus[reference])]
    if not sizes:
        return "This many questions are too few to show any difference."
    low, high = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    span = low if low == high else f"{low} to {high}"
    questions = compared[0].versus[reference]["n"]
    return (
        f"With {questions:.0f} questions, a single test finds a true difference of about {span} points in 4 of 5 runs; "
        "smaller differences may exist."
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
        "questions. p comes from McNemar's exact test; corrected p comes from Holm's method, over all comparisons with "
        "the same reference. A detectable difference is the smallest that such a run would find 4 times in 5."
    )
    if len({row.series for row in reduced}) > 2:
        text += (
            " The highest of several accuracies was chosen on these same questions, so its lead is probably overstated."
        )
    return text


def _accuracy(row: TableRow) -> str:
    point = row.point
    return f"{_percent(point['accuracy'])} [{100 * point['ci_low']:.1f}, {100 * point['ci_high']:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
