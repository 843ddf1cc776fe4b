"""Figures in matplotlib and plotly show every point of a frame with its interval, units and n, and name failures."""

import hashlib
import random

import pandas as pd
import pytest
from helpers.results import PROTOCOL, answers, make_point
from matplotlib.figure import Figure

from analysis import by_group, charts, compare, figures, flip_counts, interactive, load_predictions, load_results
from analysis.grouping import variants
from analysis.style import STYLES, VERMILLION, method_style
from tokensel.errors import TokenselError
from tokensel.methods import METHODS


def _row(method, kept, accuracy, **changes):
    row = {"key": hashlib.sha256(f"{method}{kept}{changes}".encode()).hexdigest()[:12], "model": "tiny"}
    row |= {"data": "diagrams", "scoring": "letter", "method": method, "kept": kept, "n": 200, "accuracy": accuracy}
    row |= {"ci_low": (accuracy or 0) - 0.05, "ci_high": (accuracy or 0) + 0.04, "chance": 0.35, "error": ""}
    return row | changes


@pytest.fixture
def frame():
    """Rows as in results.parquet."""
    curve = [_row(m, k, a + k / 500) for m, a in (("fps", 0.5), ("random", 0.4)) for k in (8, 64)]
    return pd.DataFrame([*curve, _row("full", None, 0.9), _row("no_image", 0, 0.33)])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Results and predictions: two methods at two kept, fps also at two layers and temperatures, one failed point."""
    folder = tmp_path_factory.mktemp("figures") / "s"
    draw = random.Random(0)

    def answers_with(share):
        return answers("".join("1" if draw.random() < share else "0" for _ in range(40)))

    make_point(folder, "full", None, answers_with(0.9))
    for kept in (8, 16):
        make_point(folder, "fastv", kept, answers_with(0.5))
        for layer in (2, 4):
            for temperature in (0.05, 0.1):
                make_point(folder, "fps", kept, answers_with(0.7), agg_layer=layer, temperature=temperature)
    make_point(folder, "tome", 8, None, error="RuntimeError: no memory")
    results, predictions = load_results(folder), load_predictions(folder)
    predictions["family"] = predictions["id"].map(lambda name: "<b>odd" if int(name[1:]) % 2 else "even")
    return results, predictions


def _texts(figure):
    """All text of a matplotlib figure."""
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def _legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_method_is_a_line_with_its_accuracies_and_intervals(frame):
    (axes,) = figures.accuracy_over_kept(frame).axes
    lines = {container.get_label(): container for container in axes.containers}
    assert set(lines) == {"fps", "random"}
    assert list(lines["fps"][0].get_ydata()) == pytest.approx([51.6, 62.8])
    (bars,) = lines["fps"][2]
    assert next(list(segment[:, 1]) for segment in bars.get_segments()) == pytest.approx([46.6, 55.6])


def test_controls_chance_and_n_are_shown(frame):
    figure = figures.accuracy_over_kept(frame)
    assert _legend(figure) == ["full", "no_image", "chance", "fps", "random"]
    (axes,) = figure.axes
    assert "n = 200" in axes.get_ylabel()
    assert "95%" in axes.get_ylabel()
    assert axes.get_xlabel() == "kept visual tokens"
    levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines if line.get_label() in ("full", "chance")}
    assert levels == pytest.approx({"full": 90.0, "chance": 35.0})


def test_failed_points_are_named_and_data_sets_never_share_a_panel(frame):
    failed = _row("fastv", 8, None, error="RuntimeError: no")
    other = _row("fps", 8, 0.2, data="easy_vqa")
    figure = figures.accuracy_over_kept(pd.DataFrame([*frame.to_dict("records"), failed, other]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tiny, diagrams", "tiny, easy_vqa"]
    assert {c.get_label() for axes in figure.axes for c in axes.containers} == {"fps", "random"}
    assert "Not shown: 1 failed (fastv at 8 kept)." in _texts(figure)


def test_a_sweep_without_any_result_still_gives_a_figure(frame):
    failed = frame.assign(accuracy=None, error="RuntimeError: no")
    figure = figures.accuracy_over_kept(failed)
    assert figure.axes == []
    assert "6 failed" in _texts(figure)


def test_two_protocols_are_two_panels(tmp_path):
    for prompt in ("llava", "lmms"):
        make_point(tmp_path / "s", "fps", 8, answers("1100"), protocol=PROTOCOL | {"prompt": prompt})
    chart = charts.accuracy_over_kept(load_results(tmp_path / "s"))
    assert {panel.title for panel in chart.panels} == {f"tiny, diagrams, prompt={p}" for p in ("llava", "lmms")}
    assert [len(panel.series[0].x) for panel in chart.panels] == [1, 1]


def test_settings_of_one_method_are_series_of_their_own(sweep):
    results, _ = sweep
    (panel,) = charts.accuracy_over_kept(results).panels
    fps = [series for series in panel.series if series.method == "fps"]
    assert [series.name for series in fps] == [
        f"fps, agg_layer {layer}, temperature {temperature}" for layer in (2, 4) for temperature in (0.05, 0.1)
    ]
    assert len({series.strength for series in fps}) == 4
    shown = sorted(y for series in fps for y in series.y)
    stored = sorted(100 * float(a) for a in results.loc[results["method"] == "fps", "accuracy"])
    assert shown == pytest.approx(stored)


def test_costs_are_drawn_in_their_unit_with_the_pareto_front(sweep):
    results, _ = sweep
    (panel,) = charts.accuracy_over_cost(results, "flops_ratio").panels
    (full,) = (series for series in panel.series if series.method == "full")
    assert full.x == pytest.approx([100.0])
    assert panel.x_label.endswith("% of the full model's")
    points = [point for series in panel.series for point in zip(series.x, series.y, strict=True)]
    # A point is on the front if no other point is at least as cheap and at least as accurate.
    front = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert panel.front == sorted(set(front))
    (timed,) = charts.accuracy_over_cost(results).panels
    (full,) = (series for series in timed.series if series.method == "full")
    assert full.x == pytest.approx([16.0])
    assert full.x_limits == [(9.0, 20.0)]
    (paired,) = charts.accuracy_over_cost(results, "prefill_ratio").panels
    assert {x for series in paired.series for x in series.x} == {50.0}  # every point is twice as fast as the full model


def test_times_of_two_devices_are_two_panels(sweep):
    results, _ = sweep
    half = results.assign(device=["gpu" if kept == 8 else "cpu" for kept in results["kept"].fillna(0)])
    titles = [panel.title for panel in charts.accuracy_over_cost(half).panels]
    assert sorted(titles) == ["tiny, diagrams, cpu", "tiny, diagrams, gpu"]
    assert len(charts.accuracy_over_cost(half, "flops_ratio").panels) == 1


def test_costs_without_measurements_are_refused_in_one_line(sweep):
    results, _ = sweep
    with pytest.raises(TokenselError, match="cost=total_ms: no complete point has it"):
        charts.accuracy_over_cost(results, "total_ms")
    with pytest.raises(TokenselError, match="cost=price: unknown; choose one of prefill_ms"):
        charts.accuracy_over_cost(results, "price")


def test_heat_maps_hold_every_layer_and_temperature(sweep):
    results, _ = sweep
    chart = charts.layer_temperature(results)
    assert [grid.title for grid in chart.panels] == [
        f"tiny, diagrams, fps, {kept} kept: accuracy, % [95%] (n = 40)" for kept in (8, 16)
    ]
    grid = chart.panels[1]
    assert (grid.layers, grid.temperatures) == ([2, 4], [0.05, 0.1])
    for row, layer in enumerate(grid.layers):
        for column, temperature in enumerate(grid.temperatures):
            same = results[(results["method"] == "fps") & (results["kept"] == 16) & (results["agg_layer"] == layer)]
            stored = same.loc[same["temperature"] == temperature, "accuracy"].item()
            assert grid.values[row][column] == pytest.approx(100 * stored)
    with pytest.raises(TokenselError, match="method=fastv kept=any: no method was run at several layers"):
        charts.layer_temperature(results, method="fastv")


def test_groups_are_panels_by_kept_with_the_full_model_in_each(sweep):
    groups = by_group(*sweep)
    chart = charts.accuracy_by_group(groups)
    assert [panel.title for panel in chart.panels] == ["tiny, diagrams, 8 kept", "tiny, diagrams, 16 kept"]
    for panel in chart.panels:
        assert [words for _, words in panel.ticks] == ["<b>odd", "even"]
        assert {series.method for series in panel.series} == {"fps", "fastv", "full"}
        assert "n = 20 per group" in panel.y_label


def test_differences_are_hollow_unless_significant(sweep):
    comparison = compare(*sweep, reference="full")
    (panel,) = charts.difference_to_reference(comparison).panels
    assert panel.levels == [("full", 0.0, "-")]
    shown = {(y, empty) for series in panel.series for y, empty in zip(series.y, series.hollow, strict=True)}
    expected = zip(comparison["difference"], comparison["p_holm"], strict=True)
    assert shown == {(float(difference), bool(p >= 0.05)) for difference, p in expected}
    assert {empty for _, empty in shown} == {True, False}
    assert "40 pairs" in panel.y_label


def test_flips_are_bars_to_both_sides_of_zero(sweep):
    counts = flip_counts(*sweep)
    (bars,) = charts.answer_flips(counts).panels
    assert bars.title == "tiny, diagrams, against full"
    assert bars.labels[0].startswith("fps, 8 kept, agg_layer 2")
    lost = dict(zip(bars.labels, bars.lost, strict=True))["fastv, 8 kept"]
    count = counts[(counts["method"] == "fastv") & (counts["kept"] == 8)]["right_to_wrong"].item()
    assert lost[0] == pytest.approx(100 * count / 40)
    assert lost[1] < lost[0] < lost[2]


CALLS = {
    "accuracy_over_kept": lambda module, results, predictions: module.accuracy_over_kept(results),
    "accuracy_over_cost": lambda module, results, predictions: module.accuracy_over_cost(results),
    "accuracy_by_group": lambda module, *both: module.accuracy_by_group(by_group(*both)),
    "difference_to_reference": lambda module, *both: module.difference_to_reference(compare(*both)),
    "layer_temperature": lambda module, results, predictions: module.layer_temperature(results),
    "answer_flips": lambda module, *both: module.answer_flips(flip_counts(*both)),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CALLS)
def test_both_libraries_draw_the_same_values(sweep, name):
    paper, page = CALLS[name](figures, *sweep), CALLS[name](interactive, *sweep)
    assert isinstance(paper, Figure)
    chart = {"layer_temperature": "values", "answer_flips": "lost"}.get(name, "y")
    if chart == "y":
        drawn = {round(float(y), 6) for axes in paper.axes for c in axes.containers for y in c[0].get_ydata()}
        marks = [trace for trace in page.data if "markers" in trace.mode]
        assert {round(y, 6) for trace in marks for y in trace.y} == drawn
        assert all(trace.error_y.array for trace in marks)
    elif chart == "values":
        drawn = [image.get_array().tolist() for axes in paper.axes for image in axes.images]
        assert [[list(line) for line in trace.z] for trace in page.data] == drawn
    else:
        drawn = {round(patch.get_width(), 6) for axes in paper.axes for patch in axes.patches}
        assert {round(x, 6) for trace in page.data for x in trace.x} == drawn
    assert all((axes.get_xlabel() and axes.get_ylabel()) or chart == "lost" for axes in paper.axes)
    assert "n = " in _texts(paper)
    assert "n = " in page.to_json()


def test_names_from_data_are_escaped_on_a_page(sweep):
    page = interactive.accuracy_by_group(by_group(*sweep)).to_json()
    assert "&lt;b&gt;odd" in page.replace("\\u003c", "<")
    assert "<b>odd" not in page.replace("\\u003c", "<")


def test_failures_are_named_on_pages_too(sweep):
    assert "Not shown: 1 failed (tome at 8 kept)." in interactive.accuracy_over_kept(sweep[0]).to_json()


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_figures_are_saved_as_pdf_and_png(sweep, tmp_path, suffix):
    path = tmp_path / f"figure.{suffix}"
    figures.save(figures.accuracy_over_kept(sweep[0]), path)
    data = path.read_bytes()
    assert data.startswith({"pdf": b"%PDF", "png": b"\x89PNG"}[suffix])
    if suffix == "pdf":
        assert b"/Type3" not in data  # Type 3 fonts are outlines, not searchable text


def test_every_method_has_its_own_fixed_style():
    ours = {name for name, kind in METHODS.items() if kind.__module__.startswith("tokensel.methods")}
    assert set(STYLES) == ours
    assert len({(style.color, style.marker) for style in STYLES.values()}) == len(STYLES)
    mine = method_style("my_own_idea")
    assert (mine.color, mine.marker) == (VERMILLION, "p")
    assert (mine.color, mine.marker) not in {(style.color, style.marker) for style in STYLES.values()}
    assert all(style.symbol and style.dash for style in [*STYLES.values(), mine])


def test_variants_name_the_settings_that_differ_within_a_method():
    rows = [
        {"method": "himap", "kept": 72, "stages": "288@2 72@8", "method.x": 1},
        {"method": "himap", "kept": 36, "stages": "144@2 36@8", "method.x": 1},
        {"method": "fps", "kept": 8, "temperature": 0.1, "seed": 1},
        {"method": "fps", "kept": 8, "temperature": 0.05, "seed": 1},
    ]
    frame = pd.DataFrame(rows).reindex(columns=[*pd.DataFrame(rows).columns, "agg_layer", "aggregation", "layout"])
    expected = variants(frame.assign(position=None, code="abcdef012345", aggregator=None, kept_share=None))
    assert list(expected) == ["", "", "temperature 0.1", "temperature 0.05"]
