"""Builds the page: reads the results, packs them, and puts the sections together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.predictions import load_predictions
from analysis.report import payload
from analysis.report.evaluation import Evaluation, evaluations
from analysis.report.findings import findings
from analysis.report.page import Html, assemble, join, tag, to_json
from analysis.report.pictures import Pictures
from analysis.report.sections import how_it_was_run, warnings_of, without_figures
from analysis.report.table import points_table
from analysis.results import load_results, pool_titles
from analysis.style import BLACK, method_style

MAX_BYTES = 15_000_000
SCRIPTS = ("dom.js", "table.js", "charts.js", "views.js", "gallery.js", "questions.js", "main.js")
DASHES = ("solid", "dash", "dot", "dashdot")
_SECTIONS = {
    "findings": "Findings",
    "points": "Every point",
    "charts": "Charts",
    "pictures": "What was kept",
    "questions": "Questions",
    "run": "How it was run",
}


@dataclass(frozen=True)
class Report:
    """A finished page. questions: how many different ones it holds."""

    html: str
    points: int
    complete: int
    questions: int
    pictures: int


def build_report(source: str | Path, pictures: int = 300) -> Report:
    """The page of everything in `source`, which is what `analysis.load_results` takes; pictures: see `report_of`.

    Raises TokenselError for a source that holds no grid point.
    """
    results = load_results(source)
    pools = evaluations(results, load_predictions(source), pool_titles(results))
    names = sorted({str(name) for name in results["sweep"].dropna()})
    return report_of(pools, ", ".join(names) or Path(source).name, pictures)


def report_of(pools: Sequence[Evaluation], title: str, pictures: int = 300) -> Report:
    """The page of these evaluations, each by itself.

    pictures    so many questions at most get a small picture in the list, those that methods disagree on most; fewer if
                the page would grow beyond MAX_BYTES
    """
    looks = _looks([row.method for pool in pools for row in pool.rows])
    data = _data(pools, looks, pictures)
    page = assemble(
        title=f"{title}: visual-token reduction",
        name=title,
        meta=_meta(pools),
        nav=join(*(tag("a", text, href=f"#{name}") for name, text in _SECTIONS.items())),
        body=_body(pools, {method: look["color"] for method, look in looks.items()}),
        data=data,
        scripts=SCRIPTS,
        styles=_color_styles(looks),
    )
    return Report(
        html=page,
        points=sum(len(pool.rows) for pool in pools),
        complete=sum(len(pool.complete) for pool in pools),
        questions=sum(len(packed["id"]) for packed in data["sets"]),
        pictures=sum(len(packed["pictures"]) + len(packed["thumbnails"]) for packed in data["sets"]),
    )


def _data(pools: Sequence[Evaluation], looks: dict[str, dict[str, Any]], pictures: int) -> dict[str, Any]:
    sets: list[dict[str, Any]] = []
    packed: dict[int, dict[str, Any]] = {}
    groups = _by_data(pools)
    for group in groups:
        questions = payload.question_set(group)
        order = payload.contested(group, questions)
        galleries = {id(pool): payload.gallery_ids(pool, order) for pool in group}
        wanted = list(dict.fromkeys(asked for ids in galleries.values() for asked in ids))
        aspects = {row.point.get("image_aspect") for pool in group for row in pool.complete}
        shown = payload.gallery_pictures(wanted, questions, aspects.pop() if len(aspects) == 1 else None)
        for pool in group:
            packed[id(pool)] = _pool(pool, len(sets), questions, galleries[id(pool)], shown, looks)
        sets.append(payload.pack_set(questions, shown, Pictures()))
        # Small pictures last, from what the rest leaves; a text below the list says so where they end.
        room = MAX_BYTES - 1_000_000 - len(to_json({"sets": sets, "pools": list(packed.values())}))
        rest = [asked for asked in order if asked not in shown.uris][:pictures]
        sets[-1] = payload.pack_set(questions, shown, payload.thumbnails(rest, questions, room // len(groups)))
    return {"pools": [packed[id(pool)] for pool in pools], "sets": sets}


def _by_data(pools: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations in groups of the same questions, so that those are stored once."""
    groups: dict[str, list[Evaluation]] = {}
    for pool in pools:
        digest = next((row.point["data_digest"] for row in pool.rows if "data_digest" in row.point), pool.pool)
        groups.setdefault(digest, []).append(pool)
    return list(groups.values())


def _pool(
    pool: Evaluation,
    place: int,
    questions: payload.QuestionSet,
    ids: Sequence[str],
    shown: Pictures,
    looks: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    side = payload.square_side(pool)
    drawn = [questions.number[asked] for asked in ids if asked in shown.uris] if side else []
    series: dict[str, list[str]] = {}
    for row in pool.rows:
        listed = series.setdefault(row.method, [])
        if row.series not in listed:
            listed.append(row.series)
    rows = []
    for row in pool.rows:
        look = looks[row.method]
        dash = (look["dash"] + series[row.method].index(row.series)) % len(DASHES)
        rows.append(payload.pack_row(row, questions, look | {"dash": dash}))
    reduced = [row for row in pool.complete if not row.is_control and row.method not in ("fastv", "random")]
    featured = min(reduced, key=lambda row: (row.kept or 0, row.label), default=None)
    return {
        "title": pool.title,
        "set": place,
        "side": side,
        "rows": rows,
        "gallery": drawn,
        "no_gallery": _why_no_gallery(pool, ids, shown),
        "featured": featured.point["key"] if featured else None,
    }


def _why_no_gallery(pool: Evaluation, ids: Sequence[str], shown: Pictures) -> str:
    if pool.missing:
        return pool.missing
    if not ids:
        return "None of these points stored which visual tokens it kept."
    if shown.lost:
        return f"The pictures could not be read, the first: {next(iter(shown.lost.values()))}"
    if payload.square_side(pool) is None:
        return "The visual tokens of these points are no square grid, so they cannot be drawn on the pictures."
    return "The questions have no pictures."


def _meta(pools: Sequence[Evaluation]) -> Html:
    rows = [row for pool in pools for row in pool.rows]
    counts = [(status, sum(row.status == status for row in rows)) for status in ("complete", "failed", "unfinished")]
    told = ", ".join(f"{count} {status}" for status, count in counts if count)
    titles = " \u00b7 ".join(pool.title for pool in pools) if len(pools) < 3 else f"{len(pools)} evaluations"
    return tag("span", f"{titles} \u00b7 points: {told}", dir="auto")


def _body(pools: Sequence[Evaluation], colors: dict[str, str]) -> Html:
    def section(name: str, *content: object) -> Html:
        return tag("section", tag("h2", _SECTIONS[name]), *content, id=name)

    def each(part: Any) -> list[Html]:
        return [tag("div", part(pool), data_pool=str(place)) for place, pool in enumerate(pools)]

    return join(
        _chooser(pools),
        section("findings", *each(lambda pool: join(*warnings_of(pool), findings(pool)))),
        section(
            "points",
            tag("p", _TABLE_NOTE, class_="note"),
            *each(lambda pool: join(points_table(pool, colors), without_figures(pool.rows))),
        ),
        section("charts", tag("p", _CHARTS_NOTE, class_="note"), tag("div", id="charts-view")),
        section("pictures", tag("p", _PICTURES_NOTE, class_="note"), tag("div", id="pictures-view")),
        section("questions", tag("p", _QUESTIONS_NOTE, class_="note"), tag("div", id="questions-view")),
        section("run", *each(how_it_was_run)),
    )


_TABLE_NOTE = (
    "Click a heading to sort by it. Differences are in percentage points on the same questions, with 95% intervals; "
    "p is McNemar's exact test. First token: the median, vision tower included. Speed-up, of the first token, and "
    "FLOPs: over the full model."
)
_CHARTS_NOTE = (
    "Point at a mark, or focus a chart and use the arrow keys, for its figures. The names switch methods on and off."
)
_PICTURES_NOTE = (
    "The visual tokens that each method kept, bright on the picture as the model saw it, for the few questions of "
    "which points store them. Most contested questions first."
)
_QUESTIONS_NOTE = "What changes from one point to another. Open a question for its choices and who took which."


def _chooser(pools: Sequence[Evaluation]) -> Html | None:
    if len(pools) < 2:
        return None
    options = [tag("option", pool.title, value=str(place)) for place, pool in enumerate(pools)]
    why = (
        f"These results are {len(pools)} evaluations that cannot be compared: they differ in the model, the questions "
        "or the way of asking. They are shown one at a time."
    )
    chosen = tag("div", tag("label", "evaluation", tag("select", *options, id="pool")), class_="controls")
    return tag("div", tag("p", why, class_="warn"), chosen)


def _looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each method's class of colour, marker and first dash, the same as in all other figures."""
    looks: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(methods):
        style = method_style(method)
        looks[method] = {"color": f"c{len(looks)}", "marker": style.symbol, "dash": DASHES.index(style.dash)}
    return looks


def _color_styles(looks: dict[str, dict[str, Any]]) -> str:
    """The colours, lighter on dark; black is the text's own colour."""
    light, dark = [], []
    for method, look in looks.items():
        color = method_style(method).color
        light.append(f".{look['color']} {{ --c: {'var(--text)' if color == BLACK else color}; }}")
        if color != BLACK:
            dark.append(f".{look['color']} {{ --c: {_lighter(color)}; }}")
    return "\n".join(["", *light, "@media (prefers-color-scheme: dark) {", *dark, "}", ""])


def _lighter(color: str) -> str:
    """#RRGGBB, a quarter of the way to white."""
    parts = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) / 4):02x}" for part in parts)
