"""The main comparison in plain words: which method is ahead at each kept, by how much, and how sure that is."""

from collections.abc import Sequence
from itertools import groupby

from analysis.report.evaluation import Evaluation, Row
from analysis.report.page import Html, join, tag

SIGNIFICANT = 0.05
MOST_LISTED = 4
NAMES = {"full": "the full model", "fastv": "FastV", "random": "random choice"}


def findings(evaluation: Evaluation) -> Html:
    """The findings of one evaluation as markup."""
    rows = evaluation.complete
    if not rows:
        return tag("p", "No point of this evaluation is complete, so there is nothing to compare yet.", class_="lead")
    reduced = [row for row in rows if not row.is_control and row.kept is not None]
    by_kept = sorted(reduced, key=lambda row: row.kept or 0)
    items = [
        tag("li", tag("span", f"{kept} kept", class_="at"), tag("span", *at_kept(list(same))))
        for kept, same in groupby(by_kept, key=lambda row: row.kept)
    ]
    return join(
        tag("p", overall(evaluation), class_="lead"),
        tag("p", against(reduced, "fastv")),
        tag("p", against(reduced, "random")),
        tag("ul", *items, class_="findings") if items else None,
        tag("p", _caution(reduced), class_="note"),
    )


def overall(evaluation: Evaluation) -> str:
    """The frame in which all else stands: the full model, no image, and chance."""
    rows = evaluation.complete
    asked = sorted({row.point["n"] for row in rows})
    count = f"{asked[0]}" if len(asked) == 1 else f"{asked[0]} to {asked[-1]}"
    first = rows[0].point
    said = f"{first.get('model', 'The model')} on {count} questions of {first.get('data', 'its data set')}: "
    parts = []
    for method, words in (("full", "with all visual tokens it is right in"), ("no_image", "without the picture in")):
        if row := next((row for row in rows if row.method == method), None):
            parts.append(f"{words} {_accuracy(row)}")
    if (chance := first.get("chance")) is not None:
        parts.append(f"guessing would give {_percent(chance)}")
    return said + (", ".join(parts) if parts else "no controls were run") + "."


def against(reduced: Sequence[Row], reference: str) -> str:
    """What can be said of all comparisons with a reference at the same kept, corrected for their number."""
    name = NAMES[reference]
    others = {"fastv", "random"} - {reference}
    compared = [row for row in reduced if reference in row.versus and row.method not in others]
    if not compared:
        return f"Nothing was compared with {name}: no point of it is complete at the same kept."
    sure = [row for row in compared if row.versus[reference]["p_holm"] < SIGNIFICANT]
    # Controls are told about where each kept is.
    aside = "" if len(compared) == len([row for row in reduced if reference in row.versus]) else ", controls aside,"
    count = f"{len(compared)} comparison{'s' if len(compared) > 1 else ''} with {name}{aside} at the same kept"
    if not sure:
        return (
            f"None of {count} is significant (Holm-corrected p of at least {SIGNIFICANT}): these answers do not tell "
            f"any method from {name}. {_reach(compared, reference)}"
        )
    sure.sort(key=lambda row: -abs(row.versus[reference]["difference"]))
    told = "; ".join(f"{row.label} is {_ahead(row, reference)}" for row in sure[:MOST_LISTED])
    if len(sure) > MOST_LISTED:
        ahead = sum(row.versus[reference]["difference"] > 0 for row in sure)
        told = f"{ahead} ahead, {len(sure) - ahead} behind. The largest: {told}"
    left = len(compared) - len(sure)
    rest = f" The other {left} are not significant. {_reach(compared, reference)}" if left else ""
    verb = "is" if len(sure) == 1 else "are"
    return f"Of {count}, {len(sure)} {verb} significant after Holm's correction: {told}.{rest}"


def at_kept(same: Sequence[Row]) -> list[Html | None]:
    """What can be said of the rows of one kept: the most accurate one first, then its comparisons, a line each."""
    ranked = sorted(same, key=lambda row: (-row.point["accuracy"], row.method in ("fastv", "random"), row.label))
    best = ranked[0]
    level = [row for row in ranked if row.point["accuracy"] == best.point["accuracy"]]
    if len(level) > 1:
        head = (
            f"{_listed([row.series for row in level])} share the highest accuracy, {_accuracy(best)}. Of {best.series}:"
        )
    else:
        head = f"{best.series} has the highest accuracy, {_accuracy(best)}."
    said: list[str | None] = []
    if best.method == "random":
        said.append("Nothing did better than choosing at random.")
    said += [_versus(best, reference) for reference in NAMES]
    other = next((row for row in ranked if row.method not in ("fastv", "random")), None)
    if best.method in ("fastv", "random") and other is not None:
        said.append(f"Of the other methods {other.series} comes closest, {_accuracy(other)}.")
        said.append(_versus(other, best.method))
    return [tag("b", head), *(tag("span", text, class_="line") for text in said if text)]


def _versus(row: Row, reference: str) -> str | None:
    """One comparison. Only a difference that stands after correction is put as a fact."""
    found = row.versus.get(reference)
    if found is None:
        return None
    name, points, p = NAMES[reference], found["difference"], found["p_value"]
    limits = f"[{found['diff_low']:+.1f}, {found['diff_high']:+.1f}]"
    if found["p_holm"] < SIGNIFICANT:
        side = "ahead of" if points > 0 else "below"
        return _minus(f"{abs(points):.1f} points {side} {name} {limits}, {probability(p)}.")
    if p < SIGNIFICANT:
        return _minus(
            f"{points:+.1f} points against {name} {limits}, {probability(p)} by itself, but "
            f"{probability(found['p_holm'])} corrected for the number of comparisons."
        )
    reach = f"; differences from about {found['detectable']:.1f} points would be found" if "detectable" in found else ""
    return _minus(f"Not told apart from {name}: {points:+.1f} points {limits}, {probability(p)}{reach}.")


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def _reach(compared: Sequence[Row], reference: str) -> str:
    """The smallest differences that so many questions could have shown."""
    sizes = [found["detectable"] for row in compared if "detectable" in (found := row.versus[reference])]
    if not sizes:
        return "So few questions cannot show any difference."
    low, high = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    span = low if low == high else f"{low} to {high}"
    questions = compared[0].versus[reference]["n"]
    return (
        f"With {questions:.0f} questions a true difference has to be about {span} points for one test to find it in 4 "
        "of 5 runs; smaller ones may well be there."
    )


def _ahead(row: Row, reference: str) -> str:
    found = row.versus[reference]
    side = "ahead" if found["difference"] > 0 else "behind"
    return f"{abs(found['difference']):.1f} points {side} ({_corrected(found['p_holm'])})"


def _corrected(p: float) -> str:
    return probability(p).replace("p ", "corrected p ", 1)


def probability(p: float) -> str:
    """p = 0.012, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _caution(reduced: Sequence[Row]) -> str:
    said = (
        "In brackets: 95% intervals (Wilson's of an accuracy, Agresti and Min's of a difference on the same questions)."
        " p: McNemar's exact test; corrected: by Holm's method, for all comparisons with that reference. A difference "
        "that would be found: in 4 of 5 such runs."
    )
    if len({row.series for row in reduced}) > 2:
        said += (
            " The highest of several accuracies was picked on these same questions, so its lead is likely overstated."
        )
    return said


def _accuracy(row: Row) -> str:
    point = row.point
    return f"{_percent(point['accuracy'])} [{100 * point['ci_low']:.1f}, {100 * point['ci_high']:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
