"""Blind, coarse and hard questions equal a slow count; agreement does too, in frames, tables and reports."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.report import Page
from helpers.results import answers, make_point

from analysis import by_need, compare, load_predictions, load_results
from analysis.report import build_report
from analysis.results import load_with_points
from analysis.tables import need_table
from tokensel.evaluation.agreement import said
from tokensel.evaluation.statistics import seeded_accuracy
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.stored import read_points
from tokensel.evaluation.stored_answers import agreement, read_answers
from tokensel.evaluation.sweep.results import agreement_with_full, as_record
from tokensel.evaluation.sweep.rows import table_rows

FULL, BLIND, FPS, TOME = "1111111101", "1100000000", "1011010010", "0101011001"
SMALL = {8: "0111100000", 16: "0111111000"}


def of(folder, *rows, **settings):
    """Writes points: (method, kept, marks of right answers)."""
    for method, kept, marks in rows:
        make_point(folder, method, kept, answers(marks), **settings)


def controls(folder, downsample=True, **settings):
    of(folder, ("full", None, FULL), ("no_image", 0, BLIND), **settings)
    if downsample:
        of(folder, *(("downsample", kept, marks) for kept, marks in SMALL.items()), **settings)


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "s"
    controls(folder)
    of(folder, *((method, kept, marks) for kept in (8, 16) for method, marks in (("fps", FPS), ("tome", TOME))))
    return folder


def cells(frame):
    """By method, kept of the downsample and kind: (n, number of right answers, of)."""
    return {
        (row["method"], None if pd.isna(row["at_kept"]) else row["at_kept"], row["need"]): (
            row["n"],
            None if pd.isna(row["accuracy"]) else round(row["n"] * row["accuracy"], 6),
            row["of"],
        )
        for row in frame.to_dict("records")
    }


def by_hand(method, marks, small, kept):
    """Goes through the questions one by one. small: of downsample; None: there is none."""
    found = {}
    names = ("blind", "coarse", "hard") if small else ("blind", "not blind")
    for name in names:
        found[method, kept, name] = [0, 0]
    for place, mark in enumerate(marks):
        kind = "blind" if BLIND[place] == "1" else "coarse" if small and small[place] == "1" else names[-1]
        found[method, kept, kind][0] += 1
        found[method, kept, kind][1] += mark == "1"
    return {key: (n, right if n else None, len(marks)) for key, (n, right) in found.items()}


def test_every_point_is_split_by_the_downsample_of_its_own_kept(sweep):
    results, points = load_with_points(sweep)
    frame = by_need(results, {key: point.answers for key, point in points.items()})
    expected = {}
    for kept, small in SMALL.items():
        for method, marks in (("full", FULL), ("fps", FPS), ("tome", TOME)):
            expected |= by_hand(method, marks, small, kept)
    assert cells(frame) == expected
    pd.testing.assert_frame_equal(frame, by_need(load_results(sweep), load_predictions(sweep)))
    hard = frame[(frame["method"] == "fps") & (frame["at_kept"] == 8) & (frame["need"] == "hard")].iloc[0]
    right = np.array([[FPS[place] == "1" for place in range(10) if BLIND[place] == SMALL[8][place] == "0"]])
    expected = seeded_accuracy(right)
    assert (hard["accuracy"], hard["ci_low"], hard["ci_high"]) == (
        expected.accuracy,
        expected.ci_low,
        expected.ci_high,
    )


def test_a_table_shows_each_point_in_one_line(sweep):
    table = need_table(by_need(load_results(sweep), load_predictions(sweep)))
    assert list(table.columns) == [
        *("method", "kept", "at kept", "n blind", "blind % [95%]"),
        *("n coarse", "coarse % [95%]", "n hard", "hard % [95%]"),
    ]
    assert len(table) == 6  # full at two kept, and two methods at each
    line = table[(table["method"] == "fps") & (table["at kept"] == 16)].iloc[0]
    found = by_hand("fps", FPS, SMALL[16], 16)
    for kind in ("blind", "coarse", "hard"):
        n, right, _ = found["fps", 16, kind]
        assert line[f"n {kind}"] == n
        assert line[f"{kind} % [95%]"].startswith(f"{100 * right / n:.1f} [")


def test_without_downsample_only_blind_questions_are_told_apart(tmp_path):
    controls(tmp_path / "s", downsample=False)
    of(tmp_path / "s", ("fps", 8, FPS), ("fps", 16, TOME))
    frame = by_need(load_results(tmp_path / "s"), load_predictions(tmp_path / "s"))
    assert list(frame["kept"].dropna().unique()) == [8, 16]
    some = frame[(frame["method"] == "full") | (frame["kept"] == 8)]
    assert cells(some) == by_hand("full", FULL, None, None) | by_hand("fps", FPS, None, None)


def test_a_point_without_a_downsample_of_its_kept_and_a_pool_without_no_image_are_left_out(sweep, tmp_path):
    of(sweep, ("fps", 32, FPS))
    frame = by_need(load_results(sweep), load_predictions(sweep))
    assert set(frame[frame["method"] == "fps"]["kept"]) == {8, 16}
    of(tmp_path / "other", ("full", None, FULL), ("downsample", 8, FPS), ("fps", 8, FPS))
    assert by_need(load_results(tmp_path / "other"), load_predictions(tmp_path / "other")).empty


def test_only_questions_that_all_of_them_answered_count_and_seeds_are_one_row(tmp_path):
    folder = tmp_path / "s"
    of(folder, ("full", None, FULL), ("no_image", 0, BLIND[:8]), ("downsample", 8, SMALL[8]))
    for seed, marks in enumerate((FPS, TOME)):
        of(folder, ("random", 8, marks), seed=seed)
    frame = by_need(load_results(folder), load_predictions(folder))
    found = cells(frame[frame["method"] == "random"])
    kinds = {"blind": (0, 1), "coarse": (2, 3, 4), "hard": (5, 6, 7)}
    for kind, places in kinds.items():
        right = sum(marks[place] == "1" for marks in (FPS, TOME) for place in places) / 2
        assert found["random", 8, kind] == (len(places), pytest.approx(right), 8)


def scored(folder, method, kept, shares):
    """A point whose answers are right in part."""
    key = make_point(folder, method, kept, answers("1" * len(shares)))
    path = folder / key / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, share in zip(lines, shares, strict=True):
        line |= {"score": share, "correct": share >= 0.5}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_half_a_score_is_right_where_questions_are_told_apart(tmp_path):
    folder = tmp_path / "s"
    scored(folder, "no_image", 0, (0.5, 0.3, 0.3, 0.0))
    scored(folder, "downsample", 8, (0.0, 0.6, 0.4, 0.9))
    scored(folder, "fps", 8, (0.3, 0.9, 0.6, 0.3))
    frame = by_need(load_results(folder), load_predictions(folder)).set_index("need")
    assert frame["n"].to_dict() == {"blind": 1, "coarse": 2, "hard": 1}
    assert frame["accuracy"].to_dict() == pytest.approx({"blind": 0.3, "coarse": 0.6, "hard": 0.6}, abs=1e-6)


def test_answers_agree_by_choice_or_by_their_words():
    assert said({"prediction": 3}) == 3
    assert said({"prediction": None}) == said({"prediction": None, "text": "  "}) == -1
    words = [said({"prediction": None, "text": text}) for text in ("A  red Car.", "a red car", "a blue car")]
    assert words[0] == words[1] != words[2]
    assert max(words) < -1
    turns = [{"turns": [{"prediction": 1}, {"prediction": None, "text": text}], "prediction": 1} for text in "abA"]
    assert said(turns[0]) == said(turns[2]) != said(turns[1])


def test_agreement_is_the_share_of_equal_answers_to_the_questions_that_both_answered():
    texts = {"a": ("yes", "Yes."), "b": ("no", "yes"), "c": ("cat", "cat")}
    one = [{"id": id, "prediction": None, "text": first} for id, (first, _) in texts.items()]
    other = [{"id": id, "prediction": None, "text": second} for id, (_, second) in texts.items()]
    one += [{"id": "d", "prediction": 2}, {"id": "e", "prediction": 1}, {"id": "f", "prediction": 1, "skipped": True}]
    other += [{"id": "d", "prediction": 2}, {"id": "g", "prediction": 1}, {"id": "f", "prediction": 1}]
    assert agreement(read_answers(one), read_answers(reversed(other))) == 3 / 4
    assert agreement(read_answers(one[:1]), read_answers(other[1:])) is None


def test_frames_and_tables_have_the_agreement_with_full(sweep):
    of(sweep, ("random", 8, FULL), seed=1)
    of(sweep, ("random", 8, BLIND), seed=2)
    rows = table_rows(read_points(sweep))
    equal = {method: sum(map(str.__eq__, FULL, marks)) / 10 for method, marks in (("fps", FPS), ("tome", TOME))}
    equal["random"] = (1 + sum(map(str.__eq__, FULL, BLIND)) / 10) / 2
    shares = {(row.setting["method"], row.kept): agreement_with_full(row, rows) for row in rows}
    assert shares["full", None] is None
    results, points = load_with_points(sweep)
    for predictions in ({key: point.answers for key, point in points.items()}, load_predictions(sweep)):
        frame = compare(results, predictions, reference="full").set_index(["method", "kept"])
        for method, share in equal.items():
            assert frame.loc[(method, 8), "agreement"] == pytest.approx(share)
            assert shares[method, 8] == pytest.approx(share)
    assert [as_record(row, rows)["agreement"] for row in rows] == list(shares.values())


def test_the_report_has_the_split_only_where_the_controls_are_there(sweep, tmp_path):
    page = Page(build_report(sweep).html)
    # At 16 kept 2 of 10 are blind, 5 more coarse; of the hard ones (q7, q8, q9) full answers 2, fps and tome 1 each.
    assert "Of 10 questions, 20.0% are blind: they are answered without the picture. At 16 kept" in page.text
    assert "another 50.0% are coarse, as downsampling is enough, and 30.0% are hard." in page.text
    assert "Of the 3 hard ones, the full model answers 66.7% and methods answer 33.3%." in page.text
    assert "VTC-Bench" in page.text
    assert "none of 4 comparisons with downsampling at the same kept has a corrected p" in page.text
    of(tmp_path / "bare", ("full", None, FULL), ("fps", 8, FPS))
    assert "Blind, coarse and hard" not in Page(build_report(tmp_path / "bare").html).text
    controls(tmp_path / "bare", downsample=False)
    text = Page(build_report(tmp_path / "bare").html).text
    assert "Of 10 questions, 20.0% are blind: they are answered without the picture. Of the 8 others, the full" in text
    assert "the others are not told apart" in text


def test_a_written_answer_that_differs_from_a_wrong_one_is_another_wrong_one(tmp_path):
    for method, kept, text in (("full", None, "a cat"), ("fps", 8, "a dog")):
        key = make_point(tmp_path / "s", method, kept, answers("0"))
        with PointStore(tmp_path / "s" / key) as store:
            record = next(store.each_prediction()) | {"prediction": None, "answer": None, "text": text}
        (tmp_path / "s" / key / "predictions.jsonl").write_text(json.dumps(record) + "\n")
    frame = compare(load_results(tmp_path / "s"), load_predictions(tmp_path / "s"), reference="full")
    assert frame["agreement"].tolist() == [0.0]
