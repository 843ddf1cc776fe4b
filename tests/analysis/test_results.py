"""Loaded frames contain every point, typed and in its pool, with the predictions that its figures come from."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.results import PROTOCOL, answers, make_point, prediction

from analysis import compare, load_predictions, load_results, pool_titles, published, questions_of
from analysis.cache import refresh_cache, write_cache
from analysis.columns import complete
from analysis.grouping import variants
from tokensel.data import load_questions, stable_hash
from tokensel.errors import TokenselError
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.statistics import seeded_accuracy
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.sweep.rows import folder_rows
from tokensel.methods import METHODS

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "published.md"


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "outputs" / "main"
    make_point(folder, "fps", 8, answers("1100"))
    make_point(folder, "no_image", 0, answers("1000"))
    make_point(folder, "full", None, answers("1111"))
    make_point(folder, "fastv", 8, answers("1010"))
    return folder


def test_every_point_is_a_row_with_its_settings_and_figures(sweep):
    frame = load_results(sweep)
    assert list(frame["method"]) == ["full", "fastv", "fps", "no_image"]
    fps = frame[frame["method"] == "fps"].iloc[0]
    assert (fps["kept"], fps["agg_layer"], fps["temperature"], fps["method.start"]) == (8, 2, 0.1, "medoid")
    assert (fps["n"], fps["correct"], fps["accuracy"], fps["status"], fps["sweep"]) == (4, 2, 0.5, "complete", "main")
    assert (fps["prefill_ms_p50"], fps["flops_ratio"], fps["device"]) == (10.08, 0.2 + 8 / 720, "cpu")
    assert fps["versions"] == "torch 2"
    assert fps["image_aspect"] == "pad"
    assert pd.isna(frame.loc[0, "kept"])
    assert frame.dtypes["kept"] == frame.dtypes["n"] == frame.dtypes["flops"] == "Int64"
    assert frame["pool"].nunique() == 1


def test_a_folder_of_sweeps_a_glob_a_parquet_and_one_point_give_the_same_rows(sweep):
    whole = load_results(sweep)
    for source in (sweep.parent, str(sweep.parent / "m*"), sweep / whole["key"][0], f"{sweep}/*"):
        frame = load_results(source)
        assert set(frame["key"]) <= set(whole["key"])
        assert len(frame) == (1 if source == sweep / whole["key"][0] else 4)
    # Files that no sweep wrote are ignored.
    other = sweep / "wandb" / "run-1" / "files"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("wandb: 1")
    assert len(load_results(sweep.parent)) == 4


def test_failed_and_unfinished_points_are_rows_and_say_so(sweep):
    make_point(sweep, "tome", 8, None, error="RuntimeError: no memory")
    make_point(sweep, "tome", 16, None, predicted=answers("1"))
    frame = load_results(sweep)
    tome = frame[frame["method"] == "tome"].sort_values("kept")
    assert list(tome["status"]) == ["failed", "unfinished"]
    assert tome["error"].iloc[0] == "RuntimeError: no memory"
    assert pd.isna(tome["error"].iloc[1])
    assert tome["accuracy"].isna().all()
    # They belong to the pool of their sweep.
    assert frame["pool"].nunique() == 1
    assert set(complete(frame)["method"]) == {"full", "fastv", "fps", "no_image"}


def test_a_point_that_failed_after_it_had_figures_is_failed(sweep):
    key = make_point(sweep, "tome", 8, answers("1111"), error="ValueError: later")
    row = load_results(sweep / key).iloc[0]
    assert (row["status"], row["error"]) == ("failed", "ValueError: later")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"revision": "other", "dtype": "float32", "path": "tiny"}},
        {"model": {"revision": "abc", "dtype": "bfloat16", "path": "tiny"}},
        {"data": {"name": "diagrams", "options": {}, "digest": "d2"}},
        {"scoring": "generate"},
        {"protocol": PROTOCOL | {"prompt": "lmms"}},
        {"protocol": None},
    ],
)
def test_another_model_data_scoring_or_protocol_is_another_pool(sweep, settings):
    make_point(sweep, "fps", 8, answers("1100"), **settings)
    frame = load_results(sweep)
    assert frame["pool"].nunique() == 2
    titles = pool_titles(frame)
    assert len(set(titles.values())) == 2


def test_more_questions_or_another_path_to_the_model_are_the_same_pool_with_their_own_n(sweep):
    make_point(sweep, "random", 8, answers("11001"))
    make_point(sweep, "tome", 8, answers("1100"), model={"revision": "abc", "dtype": "float32", "path": "/x/tiny"})
    frame = load_results(sweep).set_index("method")
    assert frame["pool"].nunique() == 1
    assert list(frame.loc[["random", "tome"], "n"]) == [5, 4]


def test_titles_name_only_what_differs(sweep):
    assert list(pool_titles(load_results(sweep)).values()) == ["tiny, diagrams"]
    make_point(sweep, "fps", 8, answers("1100"), protocol=PROTOCOL | {"prompt": "lmms"})
    assert set(pool_titles(load_results(sweep)).values()) == {
        "tiny, diagrams, prompt=llava",
        "tiny, diagrams, prompt=lmms",
    }


def test_rows_come_in_one_order_whatever_the_order_of_their_computation(tmp_path):
    points = [("full", None), ("fps", 16), ("fps", 8), ("fastv", 8), ("no_image", 0)]
    for name, order in (("one", points), ("other", points[::-1])):
        for method, kept in order:
            make_point(tmp_path / name, method, kept, answers("1100"))
    one, other = (load_results(tmp_path / name) for name in ("one", "other"))
    assert list(one["key"]) == list(other["key"])
    assert list(one["method"]) == ["full", "fastv", "fps", "fps", "no_image"]


def test_seeds_are_one_row_with_mean_deviation_and_interval(sweep):
    patterns = ("1100", "1110", "1000")
    keys = [make_point(sweep, "random", 8, answers(row), seed=seed) for seed, row in enumerate(patterns)]
    row = load_results(sweep).set_index("method").loc["random"]
    shares = [row.count("1") / 4 for row in patterns]
    assert (row["accuracy"], row["accuracy_sd"]) == pytest.approx((np.mean(shares), np.std(shares, ddof=1)))
    found = seeded_accuracy(np.array([[mark == "1" for mark in row] for row in patterns]))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((found.ci_low, found.ci_high))
    assert (row["seeds"], row["keys"], row["n"]) == ("0, 1, 2", " ".join(keys), 4)
    assert pd.isna(row["seed"])
    each = load_results(sweep, each_seed=True)
    assert sorted(each.loc[each["method"] == "random", "seed"]) == [0, 1, 2]
    assert set(load_predictions(sweep)["key"]) >= set(keys)


def test_a_seed_with_fewer_questions_does_not_shrink_the_others(sweep):
    for seed, pattern in enumerate(("1100", "1110", "1")):
        make_point(sweep, "random", 8, answers(pattern), seed=seed)
    rows = load_results(sweep).set_index("method").loc["random"]
    assert sorted(rows["n"]) == [1, 4]


def test_a_seed_that_only_one_point_of_a_method_has_names_no_setting(sweep):
    make_point(sweep, "fastv", 16, answers("1100"), seed=0, agg_layer=2)
    make_point(sweep, "random", 8, answers("1100"), seed=3)
    make_point(sweep, "random", 16, answers("1100"), seed=4)
    frame = load_results(sweep)
    assert variants(frame)[frame["method"] == "fastv"].tolist() == ["", ""]
    assert variants(frame)[frame["method"] == "random"].tolist() == ["seed 3", "seed 4"]


def test_points_of_earlier_code_are_listed_and_marked_but_not_compared(sweep):
    make_point(sweep, "fps", 8, answers("1111"), code="newer")
    frame = load_results(sweep)
    fps = frame[frame["method"] == "fps"].set_index("code")
    assert fps["superseded"].to_dict() == {"newer": False, "code-fps": True}
    assert list(complete(frame).query("method == 'fps'")["code"]) == ["newer"]


def test_a_point_of_newer_code_with_fewer_questions_takes_no_place(sweep):
    make_point(sweep, "fastv", 8, answers("10"), code="newer")
    frame = load_results(sweep)
    assert not frame["superseded"].any()
    (row,) = compare(frame, load_predictions(sweep)).query("method == 'fps'").to_dict("records")
    assert row["n"] == 4


def test_several_folders_are_one_source_and_a_point_in_two_is_one_row(sweep, tmp_path):
    other = tmp_path / "outputs" / "other"
    make_point(other, "fps", 8, answers("1100"))
    make_point(other, "tome", 8, answers("11"))
    make_point(other, "full", None, answers("11"))
    frame = load_results([sweep, other])
    assert sorted(frame["method"]) == ["fastv", "fps", "full", "no_image", "tome"]
    assert frame.set_index("method")["n"].to_dict() == {"full": 4, "fastv": 4, "fps": 4, "tome": 2, "no_image": 4}
    assert len(load_predictions([sweep, other])) == 4 * 4 + 2


def _parquet(sweep):
    """The cache that a sweep writes."""
    return write_cache(folder_rows(sweep), sweep)


@pytest.mark.parametrize("contents", [b"", b"PAR1 but no more", None])
def test_a_damaged_empty_or_lost_parquet_changes_nothing_and_is_written_again(sweep, undrawn, contents):
    path = _parquet(sweep)
    whole = load_results(sweep)
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)
    pd.testing.assert_frame_equal(load_results(sweep), whole)
    if contents is not None:
        pd.testing.assert_frame_equal(load_results(path), whole)
    assert refresh_cache(sweep)
    assert list(pd.read_parquet(path)["key"]) == list(whole["key"])
    assert not refresh_cache(sweep)
    make_point(sweep, "tome", 8, answers("1100"))
    assert refresh_cache(sweep)
    assert "tome" in set(pd.read_parquet(path)["method"])
    assert not list(sweep.glob(".*partial"))


def test_a_folder_in_the_place_of_the_parquet_stops_no_reader(sweep):
    (sweep / "results.parquet").mkdir()
    assert len(load_results(sweep)) == 4


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("metrics.json", '"text"', "metrics.json: is no JSON object"),
        ("metrics.json", "[1]", "metrics.json: is no JSON object"),
        ("metrics.json", '{"n": "many"}', "metrics.json: n has another type"),
        ("metrics.json", '{"accuracy": 0.5, "provenance": 3}', "metrics.json: provenance has another type"),
        ("metrics.json", '{"kept": 9223372036854775808}', "metrics.json: kept has another type, or is too large"),
        ("config.yaml", "seed: 9223372036854775808", "config.yaml: cannot be read"),
        ("config.yaml", "- a\n", "config.yaml: cannot be read"),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml: cannot be read"),
        ("predictions.jsonl", '{"id": 1, "answer": 0, "correct": true}\n{"id": "q1"}\n', "line 1 is not a prediction"),
        ("predictions.jsonl", '{"id": "q0", "answer": 0}\n{"id": "q1"}\n', "line 1 is not a prediction"),
        ("predictions.jsonl", '{"id": "q0", "answer": 0, "correct": "yes"}\n{"id": "q1"}\n', "line 1 is not a predic"),
    ],
)
def test_a_point_with_a_damaged_file_is_named_in_one_line_and_left_out(sweep, caplog, name, contents, message):
    folder = sweep / make_point(sweep, "tome", 8, answers("10"))
    if name == "config.yaml":
        (folder / "metrics.json").unlink()
    (folder / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    assert folder.name not in set(load_results(sweep)["key"])
    assert len(load_predictions(sweep)["key"].unique()) == 4
    assert all(re.search(message, line) and "\n" not in line for line in caplog.messages)
    assert caplog.messages


def test_a_table_without_its_points_can_be_loaded(sweep, undrawn, tmp_path):
    alone = tmp_path / "results.parquet"
    shutil.move(_parquet(sweep), alone)
    frame = load_results(alone)
    assert list(frame["accuracy"]) == [1.0, 0.5, 0.5, 0.25]
    assert frame["folder"].isna().all()
    assert frame["pool"].nunique() == 1
    assert "vs_fastv_p" not in frame
    with pytest.raises(TokenselError, match="not beside it"):
        load_predictions(alone)


@pytest.mark.parametrize(("source", "message"), [("nowhere", "does not exist"), (".", "holds no grid point")])
def test_a_source_without_points_ends_in_one_line(tmp_path, source, message):
    with pytest.raises(TokenselError, match=message) as error:
        load_results(tmp_path / source)
    assert "\n" not in str(error.value)


def test_predictions_are_rows_of_point_and_question(sweep):
    frame = load_predictions(sweep)
    assert len(frame) == 16
    fps = frame[frame["key"] == load_results(sweep).set_index("method").loc["fps", "key"]].set_index("id")
    assert list(fps["correct"]) == [True, True, False, False]
    assert list(fps["prediction"]) == [1, 1, 2, 2]
    assert (fps["answer"] == 1).all()
    assert fps.loc["q0", "positions"] == [0, 3]
    assert fps.loc["q1", "positions"] is None
    assert frame["key"].dtype == "category"


def test_predictions_of_some_keys_only(sweep):
    key = load_results(sweep)["key"][1]
    assert set(load_predictions(sweep, keys=[key])["key"]) == {key}
    with pytest.raises(TokenselError, match="keys=nope"):
        load_predictions(sweep, keys=["nope"])


def test_predictions_are_those_that_the_figures_come_from(tmp_path):
    """A run with a larger limit was killed: the figures still cover the first two questions by hash."""
    names = sorted((f"q{index}" for index in range(6)), key=stable_hash)
    first = {name: index == 0 for index, name in enumerate(names[:2])}
    more = dict.fromkeys(names[3:], True)
    key = make_point(tmp_path / "s", "fps", 8, first, predicted=first | more)
    frame = load_predictions(tmp_path / "s")
    assert dict(zip(frame["id"], frame["correct"], strict=True)) == first
    # Without figures, all stored predictions are loaded.
    (tmp_path / "s" / key / "metrics.json").unlink()
    assert set(load_predictions(tmp_path / "s")["id"]) == set(first | more)


def test_figures_of_other_questions_than_the_predictions_are_refused(tmp_path):
    make_point(tmp_path / "s", "fps", 8, answers("11"), predicted={"other": True})
    with pytest.raises(TokenselError, match="from other questions than its predictions"):
        load_predictions(tmp_path / "s")


def test_a_half_written_last_line_is_ignored(tmp_path):
    key = make_point(tmp_path / "s", "fps", 8, None, predicted=answers("10"))
    with (tmp_path / "s" / key / "predictions.jsonl").open("a") as file:
        file.write('{"id": "q2", "corr')
    assert list(load_predictions(tmp_path / "s")["id"]) == ["q0", "q1"]


def test_unreadable_answers_and_skipped_questions_stay_apart(tmp_path):
    key = make_point(tmp_path / "s", "fps", 8, None, predicted=answers("1"))
    unread = prediction("unread", False) | {"prediction": None, "margin": None, "text": "<b>no idea</b>"}
    skipped = prediction("skipped", False) | {"prediction": None, "skipped": True}
    with PointStore(tmp_path / "s" / key) as store:
        store.append([unread, skipped])
    frame = load_predictions(tmp_path / "s").set_index("id")
    assert pd.isna(frame.loc["unread", "prediction"])
    assert frame.loc["unread", "text"] == "<b>no idea</b>"
    assert list(frame["skipped"]) == [False, False, True]


@pytest.fixture
def evaluated(tmp_path):
    """The key of a point with real questions, its sweep's folder, and the questions."""
    questions = load_questions("diagrams", families=["color", "shape"])
    data = {"name": "diagrams", "options": {"families": ["color", "shape"]}, "digest": questions_digest(questions)}
    correct = {question.id: True for question in questions[:5]}
    return make_point(tmp_path / "s", "fps", 8, correct, data=data), tmp_path / "s", questions


def test_questions_are_loaded_again_and_joined_by_id(evaluated):
    _, folder, questions = evaluated
    results = load_results(folder)
    again = questions_of(results)
    assert [question.id for question in again] == [question.id for question in questions]
    frame = load_predictions(folder, questions=again)
    for row in frame.itertuples():
        (question,) = (each for each in questions if each.id == row.id)
        assert (row.family, row.question, row.choices) == (question.family, question.text, question.choices)


def test_questions_that_have_changed_are_refused(evaluated):
    _, folder, _ = evaluated
    results = load_results(folder).assign(data_digest="0" * 16)
    with pytest.raises(TokenselError, match="have changed"):
        questions_of(results)


def test_questions_of_several_data_sets_are_refused(evaluated):
    _, folder, _ = evaluated
    make_point(folder, "fps", 8, answers("1"))
    with pytest.raises(TokenselError, match="from 2 data sets"):
        questions_of(load_results(folder))


def test_published_figures_use_our_method_names_and_state_their_source():
    frame = published()
    assert set(frame["method"]) <= set(METHODS)
    assert frame["source"].notna().all()
    assert frame["accuracy"].dropna().between(0, 1).all()
    assert (frame["accuracy"].notna() | frame["latency_s"].notna()).all()
    counted = frame.dropna(subset=["correct", "n"])
    assert ((counted["correct"] / counted["n"] - counted["accuracy"]).abs() < 5e-5).all()
    quoted = frame[(frame["method"] == "fastv") & (frame["kept"] == 64)].set_index("source")["accuracy"]
    assert quoted.to_dict() == {"MMTok, arXiv 2508.18264, table 1": 0.511, "EADP, table 1": 0.687}


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is not here")
def test_published_figures_are_those_of_the_reference_table():
    """Every number of its table of methods by kept, read from the markdown."""
    lines = REFERENCE.read_text().split("## LLaVA-1.5-7B")[1].split("##")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    heads, rows = rows[0], [row for row in rows[1:] if not row[0].startswith(("vanilla", "no visual"))]
    quoted = {
        (row[0], int(kept), float(cell))
        for row in rows
        for kept, cell in zip(heads[1:5], row[1:5], strict=True)
        if cell
    }
    names = {"tome_merge": "ToMe", "himap": "HiMAP"}
    names |= {row[0].lower(): row[0] for row in rows}
    frame = published()
    frame = frame[frame["source"].str.contains("table 1") & ~frame["method"].isin(["full", "no_image"])]
    ours = {
        (names[m], k, round(100 * a, 2)) for m, k, a in frame[["method", "kept", "accuracy"]].itertuples(index=False)
    }
    assert ours == quoted
