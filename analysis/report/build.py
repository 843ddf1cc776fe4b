"""Builds the report: loads the results, packs them for the scripts, and assembles the sections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.columns import AT_EVERY_KEPT, pool_titles
from analysis.frames import Sheet
from analysis.report import payload
from analysis.report.evaluation import Evaluation, TableRow, evaluations
from analysis.report.findings import findings
from analysis.report.needs import needs_view
from analysis.report.overview import best_table, headline
from analysis.report.page import Html, assemble, join, tag, to_json
from analysis.report.pictures import Pictures
from analysis.report.sections import how_it_was_run, warnings_of, without_figures
from analysis.report.table import points_table
from analysis.results import Source, load_with_points
from analysis.style import BLACK, method_style

MAX_BYTES = 15_000_000
SCRIPTS = (
    *("dom.js", "link.js", "download.js", "table.js", "charts.js", "heat.js", "family.js", "views.js"),
    *("gallery.js", "questions.js", "main.js"),
)
DASHES = ("solid", "dash", "dot", "dashdot")
_STATUSES = ("complete", "failed", "unfinished", "earlier code")
_SECTIONS = {
    "result": "Result",
    "findings": "Findings",
    "points": "All points",
    "needs": "Blind, coarse and hard questions",
    "charts": "Charts",
    "pictures": "Kept visual tokens",
    "questions": "Questions",
    "run": "How it was run",
}


@dataclass(frozen=True)
class Report:
    """A finished page, and how many points, complete points, different questions and pictures it contains."""

    html: str
    points: int
    complete: int
    questions: int
    pictures: int


def build_report(source: Source, pictures: int = 300) -> Report:
    """Builds the page for all results in a source, or in several.

    source: as in `analysis.load_results`. pictures: see `report_of`.

    Raises TokenselError if the source holds no grid point.
    """
    results, points = load_with_points(source)
    pools = evaluations(results, points, pool_titles(results))
    names = sorted({str(name) for name in results["sweep"].dropna()})
    return report_of(pools, ", ".join(names), pictures)


def report_of(pools: Sequence[Evaluation], title: str, pictures: int = 300) -> Report:
    """Builds the page for these evaluations, which it shows one at a time.

    title       the heading
    pictures    how many questions of the list get a small picture: those that methods disagree on most, and fewer if
                the page would become larger than MAX_BYTES
    """
    styles = _styles([row.method for pool in pools for row in pool.rows])
    data = _data(pools, styles, pictures)
    page = assemble(
        title=f"{title}: visual-token reduction",
        name=title,
        meta=_meta(pools),
        nav=join(*(tag("a", text, href=f"#{name}") for name, text in _sections(pools).items())),
        body=_body(pools, {method: style["color"] for method, style in styles.items()}),
        data=data,
        scripts=SCRIPTS,
        styles=_color_rules(styles),
    )
    return Report(
        html=page,
        points=sum(len(pool.rows) for pool in pools),
        complete=sum(len(pool.complete) for pool in pools),
        questions=len({each for packed in data["sets"] for each in zip(packed["id"], packed["text"], strict=True)}),
        pictures=sum(len(packed["pictures"]) + len(packed["thumbnails"]) for packed in data["sets"]),
    )


def _sections(pools: Sequence[Evaluation]) -> dict[str, str]:
    """The page's sections: without what no evaluation has."""
    return {name: text for name, text in _SECTIONS.items() if name != "needs" or any(pool.needs for pool in pools)}


def _data(pools: Sequence[Evaluation], styles: dict[str, dict[str, Any]], pictures: int) -> dict[str, Any]:
    sets: list[dict[str, Any]] = []
    packed: dict[int, dict[str, Any]] = {}
    groups = _by_data(pools)
    for group in groups:
        questions = payload.question_set(group, payload.QUESTION_BYTES // len(groups))
        order = payload.contested(group, questions)
        galleries = {id(pool): payload.gallery_ids(pool, order, questions.known) for pool in group}
        wanted = list(dict.fromkeys(name for ids in galleries.values() for name in ids))
        aspects = {row.point.get("image_aspect") for pool in group for row in pool.complete}
        aspect = aspects.pop() if len(aspects) == 1 else None
        shown = payload.gallery_pictures(wanted, questions, aspect, payload.sheet_of(group[0]))
        for pool in group:
            packed[id(pool)] = _pool(pool, len(sets), questions, galleries[id(pool)], shown, styles)
        sets.append(payload.pack_set(questions, shown, Pictures()))
        # Small pictures get the bytes that everything else leaves. Questions without one say so.
        remaining = MAX_BYTES - 1_000_000 - len(to_json({"sets": sets, "pools": list(packed.values())}))
        rest = [name for name in order if name not in shown.uris][:pictures]
        sets[-1] = payload.pack_set(questions, shown, payload.thumbnails(rest, questions, remaining // len(groups)))
    return {"pools": [packed[id(pool)] for pool in pools], "sets": sets}


def _by_data(pools: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Groups the evaluations by data set, so that its questions are stored once; by layout, if frames are drawn."""
    groups: dict[tuple[str, Sheet | None], list[Evaluation]] = {}
    for pool in pools:
        digest = next((row.point["data_digest"] for row in pool.rows if "data_digest" in row.point), pool.pool)
        groups.setdefault((digest, payload.sheet_of(pool)), []).append(pool)
    return list(groups.values())


def _pool(
    pool: Evaluation,
    set_index: int,
    questions: payload.QuestionSet,
    ids: Sequence[str],
    shown: Pictures,
    styles: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    grid, sheet = payload.grid_of(pool), payload.sheet_of(pool)
    drawn = [questions.number[name] for name in ids if name in shown.uris] if grid else []
    dashes = _dashes(pool.rows, styles)
    rows = []
    for row in pool.rows:
        style = styles[row.method] | {"dash": dashes[row.line or row.series]}
        packed = payload.pack_row(row, style, pool.along)
        rows.append(packed if row.seeds else packed | payload.pack_predictions(row, questions, sheet))
        # A seed of its own is no line of the table and no mark of a chart, but it has predictions.
        for seed in row.seeds:
            one = payload.pack_row(seed, style, pool.along) | payload.pack_predictions(seed, questions, sheet)
            rows.append(one | {"part": True})
    reduced = [row for row in pool.complete if not row.is_control and row.method not in AT_EVERY_KEPT]
    featured = min(reduced, key=lambda row: (row.kept or 0, row.label), default=None)
    return {
        "title": pool.title,
        "set": set_index,
        "grid": grid,
        "along": pool.along,
        "rows": rows,
        "gallery": drawn,
        "no_gallery": _why_no_gallery(pool, ids, shown),
        "featured": featured.point["key"] if featured else None,
    }


def _dashes(rows: Sequence[TableRow], styles: dict[str, dict[str, Any]]) -> dict[str, int]:
    """The dash of each line: its method's for the first, then the others in turn."""
    dashes: dict[str, int] = {}
    count: dict[str, int] = {}
    for row in rows:
        if (line := row.line or row.series) not in dashes:
            dashes[line] = (styles[row.method]["dash"] + count.get(row.method, 0)) % len(DASHES)
            count[row.method] = count.get(row.method, 0) + 1
    return dashes


def _why_no_gallery(pool: Evaluation, ids: Sequence[str], shown: Pictures) -> str:
    if pool.missing:
        return pool.missing
    if not ids:
        return "None of these points stored the positions of its kept visual tokens."
    if shown.lost:
        return f"The pictures could not be read. The first error: {next(iter(shown.lost.values()))}"
    if payload.grid_of(pool) is None:
        return "The visual tokens of these points do not form a square, so they cannot be drawn on the pictures."
    return "The questions have no pictures."


def _meta(pools: Sequence[Evaluation]) -> Html:
    rows = [row for pool in pools for row in pool.rows]
    counts = [(status, sum(row.status == status for row in rows)) for status in _STATUSES]
    summary = ", ".join(f"{count} {status}".replace("earlier", "of earlier") for status, count in counts if count)
    titles = " \u00b7 ".join(pool.title for pool in pools) if len(pools) < 3 else f"{len(pools)} evaluations"
    return tag("span", f"{titles} \u00b7 points: {summary}", dir="auto")


def _body(pools: Sequence[Evaluation], colors: dict[str, str]) -> Html:
    shown = _sections(pools)

    def section(name: str, *content: object) -> Html | None:
        return tag("section", tag("h2", shown[name]), *content, id=name) if name in shown else None

    def each(part: Any) -> list[Html]:
        return [tag("div", part(pool), data_pool=str(index)) for index, pool in enumerate(pools)]

    return join(
        _chooser(pools),
        tag(
            "section",
            *each(lambda pool: tag("p", headline(pool), class_="lead", dir="auto")),
            tag(
                "div",
                tag("div", id="cost-view", class_="cost"),
                tag("div", *each(lambda pool: best_table(pool, colors))),
                class_="first",
            ),
            id="result",
            aria_label="Result",
        ),
        section("findings", *each(lambda pool: join(*warnings_of(pool), findings(pool)))),
        section(
            "points",
            tag("p", _TABLE_NOTE, class_="note"),
            *each(lambda pool: join(points_table(pool, colors), without_figures(pool.rows))),
        ),
        section("needs", *each(lambda pool: needs_view(pool, colors))),
        section("charts", tag("p", _CHARTS_NOTE, class_="note"), tag("div", id="charts-view")),
        section("pictures", tag("p", _PICTURES_NOTE, class_="note"), tag("div", id="pictures-view")),
        section("questions", tag("p", _QUESTIONS_NOTE, class_="note"), tag("div", id="questions-view")),
        section("run", *each(how_it_was_run)),
    )


_TABLE_NOTE = (
    "Click a heading to sort. The page's address keeps what you chose, so a copied link shows the same view. "
    "Differences are percentage points on the same questions, with 95% intervals; p comes from McNemar's exact test, "
    "or from a paired bootstrap where answers are right in part. "
    "Like full is the share of answers that equal the full model's, right or wrong. First token is the median time to "
    "the first token, including the vision tower. Speed-up is the median of the full model's time over the point's, "
    "measured in turn, so a busy machine slows both; it is not the medians' ratio. "
    "FLOPs are a share of the full model's; > marks a method without flops(), whose choice of tokens counts as free."
)
_CHARTS_NOTE = (
    "To see the figures of a point, move the pointer to its marker, or focus a chart and press the arrow keys. Click "
    "the name of a method to hide or show it."
)
_PICTURES_NOTE = (
    "The visual tokens that each method kept are bright; the picture is shown as the model saw it, of a video its "
    "frames in their order. Points store kept "
    "tokens only for a few questions. Questions that methods disagree on most come first."
)
_QUESTIONS_NOTE = "Compare the answers of two points. Open a question to see which points chose which answer."


def _chooser(pools: Sequence[Evaluation]) -> Html | None:
    if len(pools) < 2:
        return None
    options = [tag("option", pool.title, value=str(index)) for index, pool in enumerate(pools)]
    why = f"{len(pools)} evaluations, which cannot be compared: they differ in model, questions, scoring or protocol. "
    label = tag("label", "shown", tag("select", *options, id="pool"))
    return tag("div", tag("span", why), label, class_="warn controls chooser")


def _styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the CSS class of the colour, the marker and the first dash of each method, as in all other figures."""
    styles: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(methods):
        style = method_style(method)
        styles[method] = {"color": f"c{len(styles)}", "marker": style.symbol, "dash": DASHES.index(style.dash)}
    return styles


def _color_rules(styles: dict[str, dict[str, Any]]) -> str:
    """Writes the CSS of the methods' colours. They are lighter on a dark page; black becomes the colour of the text."""
    light, dark = [], []
    for method, style in styles.items():
        color = method_style(method).color
        light.append(f".{style['color']} {{ --c: {'var(--text)' if color == BLACK else color}; }}")
        if color != BLACK:
            dark.append(f".{style['color']} {{ --c: {_lighter(color)}; }}")
    return "\n".join(["", *light, "@media (prefers-color-scheme: dark) {", *dark, "}", ""])


def _lighter(color: str) -> str:
    """Mixes a colour, #RRGGBB, with a quarter of white."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) / 4):02x}" for channel in channels)
