"""Points of kept=auto beside fixed counts: loaded, named, and compared at equal mean cost."""

import io

import numpy as np
import pandas as pd
import pytest
from helpers.results import answers, make_point
from rich.console import Console

from analysis import at_equal_cost, compare, load_predictions, load_results
from analysis.grouping import variants
from analysis.paper_blocks import block_name, blocks_of, read_block
from runners.terminal.table import print_table
from tokensel.errors import TokenselError
from tokensel.evaluation.statistics import compare_seeds
from tokensel.evaluation.sweep.results import as_record
from tokensel.evaluation.sweep.rows import folder_rows

FEW, MANY, AUTO = "1101000011", "1111010011", "1111011000"
FIGURES = {"flops_ratio": 0.25, "kept_mean": 14.2, "kept_sd": 3.1, "tokens_left": 14, "tokens_layer_mean": 40.0}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "s"
    make_point(folder, "fps", 8, answers(FEW), figures={"flops_ratio": 0.2})
    make_point(folder, "fps", 16, answers(MANY), figures={"flops_ratio": 0.3})
    make_point(folder, "fps", 14, answers("0000000000"), agg_layer=4, figures={"flops_ratio": 0.25})
    make_point(folder, "fastv", 14, answers(FEW), figures={"flops_ratio": 0.25})
    make_point(folder, "fps", "auto", answers(AUTO), figures=FIGURES)
    make_point(folder, "fps", "auto:0.9:4-64", answers(MANY), figures=FIGURES | {"flops_ratio": 0.4})
    return folder


def test_an_auto_point_is_set_between_two_fixed_counts(folder):
    found = at_equal_cost(load_results(folder), load_predictions(folder)).set_index("kept_share")
    row = found.loc["auto"]
    assert (row["below_kept"], row["above_kept"], row["share_above"]) == (8, 16, pytest.approx(0.5))
    assert row["fixed_accuracy"] == pytest.approx((0.5 + 0.7) / 2)
    assert (row["accuracy"], row["cost"], row["kept_mean"], row["kept_sd"]) == (0.6, 0.25, 14.2, 3.1)
    mixture = [(int(few) + int(many)) / 2 for few, many in zip(FEW, MANY, strict=True)]
    expected = compare_seeds(np.array([[mark == "1" for mark in AUTO]]), np.array([mixture]))
    assert row["difference"] == pytest.approx(100 * expected.difference, abs=1e-9)
    assert row["diff_low"] == pytest.approx(100 * expected.ci_low)
    assert row["diff_low"] < 0 < row["diff_high"]
    assert 0.5 < row["p_value"] <= 1
    assert pd.isna(found.loc["auto:0.9:4-64", "fixed_accuracy"])
    assert found.loc["auto:0.9:4-64", "note"] == "no fixed count costs more"


def test_a_count_of_the_same_cost_is_compared_alone(folder):
    make_point(folder, "fps", 12, answers(FEW), figures={"flops_ratio": 0.25})
    found = at_equal_cost(load_results(folder), load_predictions(folder)).set_index("kept_share").loc["auto"]
    assert (found["below_kept"], found["above_kept"], found["fixed_accuracy"]) == (12, 12, 0.5)
    assert found["difference"] == pytest.approx(10)
    assert found["p_value"] == pytest.approx(1)  # McNemar's, of 3 against 2


def test_what_cannot_be_set_beside_is_refused(folder, tmp_path):
    results = load_results(folder)
    with pytest.raises(TokenselError, match="cost=latency: choose from flops_ratio"):
        at_equal_cost(results, cost="latency")
    make_point(tmp_path / "t", "fps", 8, answers(FEW))
    with pytest.raises(TokenselError, match="no complete point was run with kept=auto"):
        at_equal_cost(load_results(tmp_path / "t"))
    assert "difference" not in at_equal_cost(results).columns


def test_auto_is_no_number_in_frames_and_comparisons(folder):
    results = load_results(folder)
    auto = results[results["kept_share"] == "auto"].iloc[0]
    assert (auto["kept"], auto["kept_mean"], auto["kept_sd"]) == (14, 14.2, 3.1)
    names = variants(results)
    assert {text for text in names[results["method"] == "fps"] if "kept" in text} == {
        "kept auto, agg_layer 2",
        "kept auto:0.9:4-64, agg_layer 2",
    }
    compared = compare(results, load_predictions(folder), reference="fastv")
    notes = compared.set_index("key")["note"]
    assert notes[auto["key"]] == "no fastv at this kept"  # fastv has 14, and auto came to 14.2
    assert blocks_of(auto.to_dict()) == ["auto"]
    assert read_block("auto:0.90") == "auto:0.9"
    assert block_name("auto") == "as many visual tokens as cover the picture (auto)"


def test_the_table_shows_mean_and_spread_in_eighty_columns(folder):
    rows = folder_rows(folder)
    text = io.StringIO()
    print_table(rows, Console(width=80, file=text))
    lines = [line for line in text.getvalue().splitlines() if "auto" in line]
    assert any("14.2 ±3.1" in line for line in lines)
    assert max(map(len, text.getvalue().splitlines()[:12])) <= 80
    record = next(as_record(row, rows) for row in rows if row.setting["kept"] == "auto")
    assert (record["kept"], record["kept_share"], record["kept_mean"]) == (14, "auto", 14.2)
