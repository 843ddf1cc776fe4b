"""The accuracy figure shows what the frame holds: every method, its intervals, the controls, chance and n."""

import pandas as pd
import pytest

from analysis.figures import accuracy_over_kept


def _row(method, kept, accuracy, **changes):
    row = {"model": "tiny", "data": "diagrams", "scoring": "letter", "method": method, "kept": kept, "n": 200}
    row |= {"accuracy": accuracy, "ci_low": accuracy - 0.05, "ci_high": accuracy + 0.04, "chance": 0.35, "error": ""}
    return row | changes


@pytest.fixture
def frame():
    curve = [_row(m, k, a + k / 500) for m, a in (("fps", 0.5), ("random", 0.4)) for k in (8, 64)]
    return pd.DataFrame([*curve, _row("full", None, 0.9), _row("no_image", 0, 0.33)])


def test_every_method_is_a_line_with_its_accuracies_and_intervals(frame):
    (axes,) = accuracy_over_kept(frame).axes
    lines = {container.get_label(): container for container in axes.containers}
    assert set(lines) == {"fps", "random"}
    assert list(lines["fps"][0].get_ydata()) == pytest.approx([51.6, 62.8])
    (bars,) = lines["fps"][2]
    assert next(list(segment[:, 1]) for segment in bars.get_segments()) == pytest.approx([46.6, 55.6])


def test_controls_chance_and_n_are_shown(frame):
    (axes,) = accuracy_over_kept(frame).axes
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert {"full", "no_image", "chance", "fps", "random"} == labels
    assert "n = 200" in axes.get_ylabel()
    assert axes.get_xlabel() == "kept visual tokens"


def test_failed_points_are_left_out_and_data_sets_never_share_a_panel(frame):
    failed = _row("fastv", 8, 0.5, error="RuntimeError: no") | {"accuracy": None}
    other = _row("fps", 8, 0.2, data="easy_vqa")
    figure = accuracy_over_kept(pd.DataFrame([*frame.to_dict("records"), failed, other]))
    assert [axes.get_title() for axes in figure.axes] == ["tiny, diagrams, letter", "tiny, easy_vqa, letter"]
    assert {c.get_label() for axes in figure.axes for c in axes.containers} == {"fps", "random"}


def test_a_sweep_without_any_result_still_gives_a_figure(frame):
    assert accuracy_over_kept(frame.assign(accuracy=None)).axes == []
