"""Paired comparisons equal slow, obvious versions: within a pool, at equal kept, over questions that both answered."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from helpers.results import PROTOCOL, answers, make_point
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from analysis import by_group, compare, flip_counts, flips, load_predictions, load_results
from analysis.results import load_with_points
from analysis.tables import accuracy_table, comparison_table, probability
from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import compare_seeds, minimum_detectable_difference, wilson_interval


def difference_interval(b, c, n, level=0.95):
    """The interval of b questions that only the first of two points answers correctly, c only the second, n in all."""
    one, other = np.zeros((1, n), dtype=bool), np.zeros((1, n), dtype=bool)
    one[0, :b], other[0, b : b + c] = True, True
    found = compare_seeds(one, other, level)
    return found.ci_low, found.ci_high


FASTV, FPS, TOME, FULL = "1101010011", "1111011100", "0001010001", "1111111110"


@pytest.fixture
def sweep(tmp_path):
    keys = {"full": make_point(tmp_path / "s", "full", None, answers(FULL))}
    for kept in (8, 16):
        for method, pattern in (("fastv", FASTV), ("fps", FPS), ("tome", TOME)):
            keys[method, kept] = make_point(tmp_path / "s", method, kept, answers(pattern))
    return tmp_path / "s", keys


def loaded(folder):
    return load_results(folder), load_predictions(folder)


@pytest.mark.parametrize("reference", ["fastv", "full"])
def test_answers_in_columns_give_the_same_comparisons_as_the_frame_of_predictions(sweep, reference):
    folder, _ = sweep
    make_point(folder, "fps", 32, answers("10110"), predicted=answers("1011011"))  # more are stored than figured
    make_point(folder, "fastv", 32, answers("0011"))
    for seed in (0, 1):
        make_point(folder, "random", 8, answers(TOME if seed else FPS), seed=seed)
    results, points = load_with_points(folder)
    assert set(points) == {key for keys in results["keys"] for key in keys.split()}
    table = compare(results, {key: point.answers for key, point in points.items()}, reference)
    assert table["p_value"].notna().sum() > 5
    pd.testing.assert_frame_equal(table, compare(*loaded(folder), reference))


def exact_p(b, c):
    """Two-sided p: the probability of a split at least as uneven, by enumeration."""
    outcomes = [Fraction(math.comb(b + c, k), 2 ** (b + c)) for k in range(b + c + 1)]
    return float(sum(chance for k, chance in enumerate(outcomes) if abs(2 * k - b - c) >= abs(b - c)))


def test_every_method_is_compared_with_fastv_at_its_own_kept(sweep):
    folder, keys = sweep
    table = compare(*loaded(folder)).set_index("key")
    assert set(table.index) == {keys[method, kept] for method in ("fps", "tome") for kept in (8, 16)}
    for (method, kept), pattern in {("fps", 8): FPS, ("tome", 16): TOME}.items():
        row = table.loc[keys[method, kept]]
        b = sum(one > other for one, other in zip(pattern, FASTV, strict=True))
        c = sum(one < other for one, other in zip(pattern, FASTV, strict=True))
        assert (row["b"], row["c"], row["n"]) == (b, c, 10)
        assert row["difference"] == pytest.approx(10 * (b - c))
        assert row["p_value"] == pytest.approx(exact_p(b, c))
        assert row["accuracy"] - row["reference_accuracy"] == pytest.approx((b - c) / 10)
        assert row["diff_low"] < row["difference"] < row["diff_high"]
        assert row["reference_key"] == keys["fastv", kept]
        assert row["note"] == ""


def test_full_is_compared_with_every_kept_and_a_key_with_its_own_kept(sweep):
    folder, keys = sweep
    against_full = compare(*loaded(folder), reference="full")
    assert len(against_full) == 6
    assert set(against_full["reference_key"]) == {keys["full"]}
    against_key = compare(*loaded(folder), reference=keys["fps", 8]).dropna(subset="difference")
    assert set(against_key["key"]) == {keys["fastv", 8], keys["tome", 8]}


def test_a_kept_without_the_reference_says_so(sweep):
    folder, _ = sweep
    lone = make_point(folder, "fps", 32, answers(FPS))
    row = compare(*loaded(folder)).set_index("key").loc[lone]
    assert row["note"] == "no fastv at this kept"
    assert pd.isna(row["p_value"])
    assert pd.isna(row["p_holm"])


def test_points_of_different_pools_are_never_compared(sweep):
    folder, _ = sweep
    other = make_point(folder, "fps", 8, answers(FPS), protocol=PROTOCOL | {"prompt": "lmms"})
    row = compare(*loaded(folder)).set_index("key").loc[other]
    assert row["note"] == "no fastv at this kept"


def test_failed_points_are_not_compared(sweep):
    folder, keys = sweep
    (folder / keys["fastv", 8] / "error.json").write_text('{"error": "no"}')
    table = compare(*loaded(folder))
    assert set(table.loc[table["kept"] == 8, "note"]) == {"no fastv at this kept"}


def test_the_reference_is_taken_from_the_same_layer(sweep):
    folder, keys = sweep
    deep = make_point(folder, "fastv", 8, answers(TOME), agg_layer=4)
    deep_fps = make_point(folder, "fps", 8, answers(FPS), agg_layer=4)
    partners = compare(*loaded(folder)).set_index("key")["reference_key"]
    assert partners[deep_fps] == deep
    assert partners[keys["fps", 8]] == keys["fastv", 8]


def test_an_unknown_reference_ends_in_one_line(sweep):
    with pytest.raises(TokenselError, match=r"reference=fast: no complete point has this.*fastv, fps, full, tome"):
        compare(*loaded(sweep[0]), reference="fast")


def test_skipped_questions_count_for_neither(tmp_path):
    for method in ("fastv", "fps"):
        key = make_point(tmp_path / "s", method, 8, answers("1100"))
        path = tmp_path / "s" / key / "predictions.jsonl"
        path.write_text(path.read_text().replace('"skipped": false', '"skipped": true', 1 if method == "fps" else 0))
    assert compare(*loaded(tmp_path / "s"))["n"].tolist() == [3]


def test_p_values_are_corrected_within_their_pool(sweep):
    folder, _ = sweep
    lmms = PROTOCOL | {"prompt": "lmms"}
    for method, pattern in (("fastv", "0" * 10), ("fps", "1" * 10)):
        make_point(folder, method, 8, answers(pattern), protocol=lmms)
    table = compare(*loaded(folder))
    alone = table[table["pool"].str.contains("lmms")].iloc[0]
    assert alone["p_holm"] == alone["p_value"] == pytest.approx(2 / 2**10)
    rest = table[~table["pool"].str.contains("lmms")]
    assert list(rest["p_holm"]) == pytest.approx(slow_holm(list(rest["p_value"])))


def slow_holm(p_values):
    """By definition: the k-th smallest of m p-values times m - k + 1, and never below the previous result."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = least
    return corrected


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40))
def test_intervals_contain_the_difference_and_mirror_each_other(b, c, rest):
    n = b + c + rest
    low, high = difference_interval(b, c, n)
    assert -1 <= low <= high <= 1
    assert low <= (b - c) / (n + 2) <= high
    mirrored = difference_interval(c, b, n)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]))
    wider = difference_interval(b, c, n, level=0.99)
    assert wider[0] <= low
    assert high <= wider[1]


@pytest.mark.slow
@pytest.mark.parametrize(("p_b", "p_c"), [(0.1, 0.1), (0.2, 0.05), (0.02, 0.0)])
def test_intervals_contain_the_true_difference_95_times_in_100(p_b, p_c):
    """By enumeration of all outcomes of 40 pairs."""
    n, covered = 40, 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            chance = multinomial.pmf([b, c, n - b - c], n, [p_b, p_c, 1 - p_b - p_c])
            low, high = difference_interval(b, c, n)
            covered += chance * (low <= p_b - p_c <= high)
    assert covered >= 0.94


def test_detectable_follows_from_n_and_disagreement(tmp_path):
    for method, pattern in (("fastv", 8 * FASTV), ("tome", 8 * TOME), ("fps", 8 * FASTV)):
        make_point(tmp_path / "s", method, 8, answers(pattern))
    table = compare(*loaded(tmp_path / "s")).set_index("method")
    disagreeing = sum(one != other for one, other in zip(FASTV, TOME, strict=True)) / 10
    expected = 100 * minimum_detectable_difference(80, discordant=disagreeing)
    assert table.loc["tome", "detectable"] == pytest.approx(expected)
    assert pd.isna(table.loc["fps", "detectable"])  # the same answers


def test_flips_name_the_change_from_the_references_answer(sweep):
    folder, keys = sweep
    _, predictions = loaded(folder)
    table = flips(predictions, keys["tome", 8], keys["full"]).set_index("id")
    assert set(table.index) == {f"q{index}" for index in range(10) if TOME[index] != FULL[index]}
    assert table.loc["q0", "flip"] == "right to wrong"
    assert table.loc["q9", "flip"] == "wrong to right"
    assert (table.loc["q0", "prediction"], table.loc["q0", "reference_prediction"]) == (2, 1)
    with pytest.raises(TokenselError, match="key=nope"):
        flips(predictions, "nope", keys["full"])


def test_flip_counts_equal_the_numbers_of_flips(sweep):
    folder, keys = sweep
    path = folder / keys["tome", 8] / "predictions.jsonl"
    # q2 is wrong in both, but differently: full has it right, so take fastv as reference.
    path.write_text(path.read_text().replace('"prediction": 2', '"prediction": 0', 1))
    results, predictions = loaded(folder)
    for reference in ("full", "fastv"):
        counts = flip_counts(results, predictions, reference)
        assert len(counts) == (6 if reference == "full" else 4)
        for row in counts.to_dict("records"):
            single = flips(predictions, row["key"], row["reference_key"])["flip"].value_counts()
            for flip in ("right to wrong", "wrong to right", "wrong to wrong"):
                assert row[flip.replace(" ", "_")] == single.get(flip, 0)
            assert row["n"] == 10


def test_groups_have_their_own_accuracies_and_intervals(sweep):
    folder, keys = sweep
    results, predictions = loaded(folder)
    predictions["family"] = np.where(predictions["id"].isin(["q0", "q1", "q2"]), "first", "rest")
    table = by_group(results, predictions).set_index(["key", "group"])
    row = table.loc[(keys["fps", 8], "rest")]
    assert (row["n"], row["correct"]) == (7, FPS[3:].count("1"))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson_interval(FPS[3:].count("1"), 7))
    assert len(table) == 14


def test_groups_need_questions(sweep):
    with pytest.raises(TokenselError, match="group=family: not in predictions; load them with questions="):
        by_group(*loaded(sweep[0]))


def test_a_point_in_two_sweeps_is_one_row_and_a_comparison_uses_the_shared_questions(tmp_path):
    for name, length in (("one", 6), ("two", 10)):
        make_point(tmp_path / name, "fastv", 8, answers(FASTV[:length]))
    make_point(tmp_path / "two", "fps", 8, answers(FPS[:8]))
    results, predictions = loaded(tmp_path)
    assert results.set_index("method")["n"].to_dict() == {"fastv": 10, "fps": 8}
    (row,) = compare(results, predictions).to_dict("records")
    assert (row["n"], row["reference_accuracy"]) == (8, FASTV[:8].count("1") / 8)
    predictions["family"] = "all"
    assert sorted(by_group(results, predictions)["n"]) == [8, 10]


def test_seeds_are_compared_by_their_mean(tmp_path):
    patterns = (TOME, FASTV, FULL)
    for seed, pattern in enumerate(patterns):
        make_point(tmp_path, "random", 8, answers(pattern), seed=seed)
    make_point(tmp_path, "fps", 8, answers(FPS))
    results, predictions = loaded(tmp_path)
    (row,) = compare(results, predictions, reference="random").to_dict("records")
    matrix = np.array([[mark == "1" for mark in pattern] for pattern in patterns])
    found = compare_seeds(np.array([[mark == "1" for mark in FPS]]), matrix)
    assert row["difference"] == pytest.approx(100 * found.difference)
    assert row["difference"] == pytest.approx(10 * FPS.count("1") - 100 * matrix.mean())
    assert (row["p_value"], row["diff_low"]) == pytest.approx((found.p_value, 100 * found.ci_low))
    assert pd.isna(row["b"])
    predictions["family"] = predictions["id"].isin(["q0", "q1", "q2"])
    groups = by_group(results, predictions)
    first = groups[(groups["method"] == "random") & groups["group"]].iloc[0]
    assert (first["n"], first["accuracy"]) == (3, pytest.approx(matrix[:, :3].mean()))


def test_tables_show_every_point_with_its_interval_or_its_status(sweep):
    folder, _ = sweep
    make_point(folder, "random", 8, None, error="RuntimeError: no memory")
    results, predictions = loaded(folder)
    table = accuracy_table(results)
    assert len(table) == len(results) == 8
    row = table[(table["method"] == "fps") & (table["kept"] == 16)].iloc[0]
    low, high = wilson_interval(FPS.count("1"), 10)
    assert row["accuracy % [95%]"] == f"{10 * FPS.count('1'):.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert (row["speed-up"], row["prefill ms"]) == ("2.00x", "10.2")
    assert table.loc[table["method"] == "random", "accuracy % [95%]"].item() == "failed"
    assert "pool" not in table
    comparison = compare(results, predictions)
    read = comparison_table(comparison)
    first = comparison.iloc[0]
    shown = f"{first['difference']:+.1f} [{first['diff_low']:+.1f}, {first['diff_high']:+.1f}]"
    assert read["points over fastv [95%]"][0] == shown
    assert read["b : c"][0] == f"{first['b']} : {first['c']}"


def test_tables_of_several_pools_name_them(sweep):
    folder, _ = sweep
    make_point(folder, "fps", 8, answers(FPS), protocol=PROTOCOL | {"prompt": "lmms"})
    results, predictions = loaded(folder)
    assert set(accuracy_table(results)["pool"]) == {f"tiny, diagrams, prompt={p}" for p in ("llava", "lmms")}
    read = comparison_table(compare(results, predictions))
    assert read.loc[read["pool"].str.contains("lmms"), "note"].tolist() == ["no fastv at this kept"]


@pytest.mark.parametrize(("value", "words"), [(0.0004, "<0.001"), (0.001, "0.001"), (0.0496, "0.050"), (1.0, "1.000")])
def test_p_values_are_written_with_three_places(value, words):
    assert probability(value) == words
