"""The report without a browser: its figures equal the files, its sentences follow from them, all texts are escaped."""

import base64
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.report import COMMAND, HOSTILE, Page, write_point, write_questions, write_sweep
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysis.report import build_report, payload
from analysis.report.evaluation import Evaluation, TableRow
from analysis.report.findings import findings
from analysis.report.overview import best_points, headline
from analysis.report.page import tag, to_json
from analysis.report.payload import SKIPPED, UNREADABLE, QuestionSet, pack_answers
from analysis.report.pictures import as_seen, data_uri, encode_pictures
from analysis.report.table import _columns, flops_text
from runners.report import main
from tokensel.data import Question, load_questions, stable_hash
from tokensel.evaluation.stored_answers import read_answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def report(folder: Path):
    return build_report(folder)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.html)


def stored(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/metrics.json")}


def answers(folder: Path, key: str) -> list[dict]:
    return [json.loads(line) for line in (folder / key / "predictions.jsonl").read_text().splitlines()]


def exact_p(b: int, c: int) -> float:
    """McNemar's exact test by its definition: twice the smaller tail of Binomial(b + c, 1/2)."""
    n = b + c
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)


def test_every_cell_is_the_stored_figure(folder, page):
    metrics, table = stored(folder), page.table()
    assert set(metrics) <= set(table)
    assert len(table) == len(metrics) + 2
    for key, figures in metrics.items():
        row = table[key]
        for name in ("method", "kept", "n", "accuracy", "flops_ratio", "kv_bytes", "tokens_layer_mean", "speedup"):
            expected = figures[name]
            shown = row[name]
            assert (shown == "") if expected is None else (type(expected)(shown) == expected), name
        assert float(row["prefill_ms_p50"]) == figures["prefill_ms"]["p50"]


def test_embedded_figures_are_the_stored_ones(folder, page):
    metrics = stored(folder)
    rows = [row for pool in page.data["pools"] for row in pool["rows"] if row["status"] == "complete"]
    assert {row["key"] for row in rows} == set(metrics)
    for row in rows:
        figures = metrics[row["key"]]
        for name in ("n", "correct", "skipped", "accuracy", "ci_low", "ci_high", "flops", "flops_ratio", "kv_bytes"):
            assert row["figures"][name] == figures[name]
        for name in ("select_ms", "vision_ms", "prefill_ms", "decode_ms", "total_ms"):
            assert [row["figures"][f"{name}_{part}"] for part in figures[name]] == list(figures[name].values())


def test_packed_answers_are_the_stored_ones(folder, page):
    for pool in page.data["pools"]:
        ids = page.data["sets"][pool["set"]]["id"]
        for row in pool["rows"]:
            if row["status"] != "complete":
                assert "predictions" not in row
                continue
            choices, bits = base64.b64decode(row["predictions"]), base64.b64decode(row["correct"])
            assert len(choices) == len(ids)
            for line in answers(folder, row["key"]):
                number = ids.index(line["id"])
                assert choices[number] == line["prediction"]
                assert bool(bits[number // 8] >> number % 8 & 1) == line["correct"]


def test_skipped_and_unreadable_answers_have_different_codes():
    rows = read_answers(
        [
            {"id": "a", "prediction": 1, "correct": True},
            {"id": "b", "prediction": None, "correct": False},
            {"id": "c", "prediction": None, "correct": True, "skipped": True},
        ]
    )
    row = TableRow({"key": "k", "status": "complete"}, "fps 4", "fps", answers=rows)
    packed = pack_answers(row, QuestionSet(["c", "x", "b", "a"], {}, {}, ""))
    assert list(base64.b64decode(packed["predictions"])) == [SKIPPED, 253, UNREADABLE, 1]
    assert base64.b64decode(packed["correct"]) == bytes([0b1000])


def test_comparisons_are_mcnemars_on_the_stored_answers(folder, page):
    right = {key: {line["id"]: line["correct"] for line in answers(folder, key)} for key in stored(folder)}
    compared = 0
    for pool in page.data["pools"]:
        complete = [row for row in pool["rows"] if row["status"] == "complete"]
        for row in complete:
            for reference, found in row["versus"].items():
                kept = {row["kept"], None} if reference == "full" else {row["kept"]}
                partners = [other for other in complete if other["method"] == reference and other["kept"] in kept]
                assert len(partners) == 1
                mine, theirs = right[row["key"]], right[partners[0]["key"]]
                b = sum(mine[id] and not theirs[id] for id in mine)
                c = sum(theirs[id] and not mine[id] for id in mine)
                assert found["points"] == pytest.approx(100 * (b - c) / len(mine))
                assert found["p"] == pytest.approx(exact_p(b, c))
                assert page.table()[row["key"]][f"vs_{reference}_p"] == str(found["p"])
                compared += 1
    assert compared >= 15


def test_pools_are_never_mixed(page):
    first, second = page.data["pools"]
    assert {row["method"] for row in second["rows"]} == {"full", "fps"}
    assert len(first["rows"]) == 10
    # The two full models differ widely: each fps is compared with its own.
    for pool in (first, second):
        full = next(row for row in pool["rows"] if row["method"] == "full")["figures"]["accuracy"]
        fps = next(row for row in pool["rows"] if row["method"] == "fps" and row["kept"] == 4)
        assert fps["versus"]["full"]["points"] == pytest.approx(100 * (fps["figures"]["accuracy"] - full))
    assert "2 evaluations, which cannot be compared" in page.text
    assert "fastv" not in second["rows"][1]["versus"]


def test_failed_and_unfinished_points_are_listed(page):
    by_status = {row["status"]: row for row in page.rows}
    assert set(by_status) == {"complete", "failed", "unfinished"}
    assert "tome 4 failed: RuntimeError: <u>no</u> memory" in page.text
    assert "tome 9 is unfinished; 7 answers are stored" in page.text
    for status in ("failed", "unfinished"):
        assert dict(zip(by_status[status]["of"], by_status[status]["values"], strict=True))["accuracy"] == ""


def test_command_and_protocol_are_shown(page):
    for fact in (COMMAND, "vicuna_v1", "cpu (x86_64)", "python 3.11.0, torch 2.13.0", "repeats 3, warmup 1"):
        assert fact in page.text


def test_only_its_own_scripts_and_styles_may_run(page):
    assert page.tags.count("script") == 2
    assert page.tags.count("style") == 1
    for kind, text in (("script", page.contents["script"][1]), ("style", page.contents["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy
    assert "unsafe" not in page.policy


def test_the_page_makes_no_requests(page):
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert all(key not in ("src", "srcset", "action", "ping") for _, key, _ in page.attributes)
    assert all((value or "").startswith("#") for name, key, value in page.attributes if name == "a" and key == "href")
    named = set(re.findall(r"https?://[^\s\"'`)]+", page.contents["script"][1] + page.contents["style"][0]))
    assert named == {"http://www.w3.org/2000/svg"}  # the name of a namespace, not an address


def test_hostile_texts_are_shown_as_text(page, folder):
    assert "img" not in page.tags
    assert "i" not in page.tags
    assert f" {folder.name} " in page.text
    assert all(not key.startswith("on") for _, key, _ in page.attributes)
    texts = page.data["sets"][0]["text"]
    for text in HOSTILE:
        assert any(shown.startswith(text) for shown in texts)
    assert "<" not in page.contents["script"][0]


@given(
    st.recursive(
        st.none() | st.text() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )
)
def test_json_survives_a_script_element(value):
    written = to_json(value)
    assert not set("<>&\u2028\u2029") & set(written)

    def same(one, other) -> bool:
        if isinstance(one, float):
            return other is None if not math.isfinite(one) else one == other
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, dict):
            return set(one) == set(other) and all(same(item, other[key]) for key, item in one.items())
        return one == other

    assert same(value, json.loads(written))


@given(st.text(alphabet=st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])))
def test_a_tags_text_and_attributes_are_read_back(text):
    page = Page(tag("p", text, title=text))
    assert page.tags == ["p"]
    assert "".join(page.words) == text
    assert page.attributes == [("p", "title", text)]


def row(method: str, kept: int | None, accuracy: float, **versus: tuple[float, float]) -> TableRow:
    """A complete row; versus: by reference, a difference in points and a p-value, corrected and not."""
    point = {"key": f"{method}{kept}", "status": "complete", "method": method, "kept": kept, "model": "tiny"}
    point |= {"n": 100, "accuracy": accuracy, "ci_low": accuracy - 0.1, "ci_high": accuracy + 0.1, "data": "d"}
    limits = {"diff_low": -1.0, "diff_high": 20.0, "detectable": 12.0, "n": 100}
    found = {name: limits | {"difference": one, "p_value": p, "p_holm": p} for name, (one, p) in versus.items()}
    return TableRow(point, f"{method} {kept}", method, versus=found)


def evaluation_of(*rows: TableRow, ranking: tuple[str, ...] = ()) -> Evaluation:
    return Evaluation("pool", "title", list(rows), [], [], "", ranking=list(ranking))


def findings_text(*rows: TableRow, ranking: tuple[str, ...] = ()) -> str:
    return Page(findings(evaluation_of(*rows, ranking=ranking))).text


def test_findings_claim_nothing_without_significance():
    rows = (
        row("fps", 8, 0.8, fastv=(9.0, 0.2), random=(8.0, 0.3)),
        row("fastv", 8, 0.71, random=(-1.0, 0.9)),
        row("random", 8, 0.72),
    )
    text = findings_text(*rows, ranking=("kept 8: fps 80.0%, random 72.0% and 1 more tie",))
    assert "No method differs significantly from FastV: none of 1 comparison with FastV" in text
    assert "No method differs significantly from random choice" in text
    assert "about 12.0 points" in text
    assert "kept 8 fps 80.0%, random 72.0% and 1 more tie." in text.replace("kept 8fps", "kept 8 fps")
    assert "points ahead" not in text
    assert "better" not in text
    assert headline(evaluation_of(*rows)) == (
        "With 8 visual tokens, fps answers 80.0% of 100 questions of d correctly; no method differs significantly from "
        "FastV or random choice."
    )


def test_findings_name_what_is_ahead_and_behind():
    rows = (
        row("fps", 8, 0.9, fastv=(20.0, 0.001), random=(30.0, 0.0001)),
        row("tome", 8, 0.5, fastv=(-20.0, 0.002), random=(-10.0, 0.4)),
        row("fastv", 8, 0.7, random=(10.0, 0.2)),
        row("random", 8, 0.6),
    )
    text = findings_text(*rows)
    assert "Of 2 comparisons with FastV at the same kept, 2 are significant" in text
    assert "Of 2 comparisons with random choice at the same kept (not counting FastV)" in text
    assert "fps 8 is 20.0 points ahead (corrected p = 0.001)" in text
    assert "tome 8 is 20.0 points behind (corrected p = 0.002)" in text
    assert headline(evaluation_of(*rows)).endswith(
        "; fps 8 is significantly ahead of FastV; tome 8 is significantly behind FastV; "
        "fps 8 is significantly ahead of random choice."
    )


def test_a_difference_that_correction_makes_insignificant_is_not_stated_as_a_fact():
    one = row("fps", 8, 0.9, fastv=(20.0, 0.03))
    one.versus["fastv"]["p_holm"] = 0.3
    text = findings_text(one, row("fastv", 8, 0.7))
    assert "No method differs significantly from FastV" in text
    assert "points ahead" not in text
    assert headline(evaluation_of(one)).endswith("no method differs significantly from FastV.")
    assert "No method can be compared with random choice" in text


def priced(method: str, kept: int, accuracy: float, flops_ratio: float) -> TableRow:
    made = row(method, kept, accuracy)
    made.point["flops_ratio"] = flops_ratio
    return made


def test_best_points_are_those_that_no_cheaper_point_equals():
    cheap, better, dear = priced("fps", 8, 0.6, 0.30), priced("fps", 16, 0.8, 0.50), priced("fps", 32, 0.7, 0.9)
    tied, later = priced("tome", 16, 0.8, 0.51), priced("dart", 16, 0.8, 0.7)
    best = best_points([dear, later, tied, better, cheap])
    assert [(each.row.label, [row.label for row in each.tied]) for each in best] == [
        ("fps 8", []),
        ("fps 16", ["tome 16"]),
    ]
    sentence = headline(evaluation_of(dear, later, tied, better, cheap))
    assert sentence.startswith("With 16 visual tokens and 50% of the FLOPs, fps answers 80.0%")
    assert "(as does tome 16)" in sentence


def test_a_point_with_fewer_questions_is_never_the_best():
    few, many = priced("fps", 8, 0.9, 0.3), priced("tome", 8, 0.6, 0.3)
    few.point["n"] = 10
    assert [each.row.label for each in best_points([few, many])] == ["tome 8"]
    full = row("full", None, 0.95)
    full.point["n"] = 300
    sentence = headline(evaluation_of(full, few, many))
    assert sentence.startswith(
        "With 8 visual tokens and 30% of the FLOPs, tome answers 60.0% of 100 questions of d correctly, "
        "the full model 95.0% of 300; "
    )


def test_without_costs_the_best_points_are_those_over_kept():
    best = best_points([row("fps", 32, 0.7), row("fps", 8, 0.6), row("tome", 8, 0.5), row("random", 16, 0.6)])
    assert [each.row.label for each in best] == ["fps 8", "fps 32"]


def test_seeds_are_one_row_and_each_keeps_its_answers(tmp_path):
    data = write_questions(tmp_path / "data", 40)
    asked = load_questions("question_file", **data["options"])
    for method, seed in (("fps", None), ("fastv", None), ("random", 0), ("random", 1), ("random", 2)):
        write_point(tmp_path / "out", data, asked, method, 4, 0.6, seed=seed)
    page = Page(build_report(tmp_path / "out").html)
    metrics = stored(tmp_path / "out")
    accuracies = [figures["accuracy"] for figures in metrics.values() if figures["method"] == "random"]
    (line,) = [row for row in page.table().values() if row["method"] == "random"]
    assert float(line["accuracy"]) == pytest.approx(np.mean(accuracies))
    assert line["seeds"] == "0, 1, 2"
    rows = {row["label"]: row for row in page.data["pools"][0]["rows"]}
    assert rows.keys() == {"fps 4", "fastv 4", "random 4", *(f"random 4 (seed {seed})" for seed in range(3))}
    assert rows["random 4"]["figures"]["accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert rows["random 4"]["figures"]["seeds"] == 3
    assert "predictions" not in rows["random 4"]
    assert [rows[f"random 4 (seed {seed})"].get("part") for seed in range(3)] == [True] * 3
    ids = page.data["sets"][0]["id"]
    seed = next(key for key, figures in metrics.items() if (figures["method"], figures["seed"]) == ("random", 1))
    choices = base64.b64decode(rows["random 4 (seed 1)"]["predictions"])
    assert all(choices[ids.index(line["id"])] == line["prediction"] for line in answers(tmp_path / "out", seed))
    assert f"\u00b1 {100 * np.std(accuracies, ddof=1):.1f}" in page.text
    assert "too few" not in page.text, "nothing detectable is known for several seeds"


def test_times_of_different_machines_are_not_to_be_compared(tmp_path):
    data = write_questions(tmp_path / "data", 10)
    questions = load_questions("question_file", **data["options"])
    write_point(tmp_path / "out", data, questions, "full", None, 0.9)
    write_point(tmp_path / "out", data, questions, "fps", 4, 0.8, device="NVIDIA H100")
    text = Page(build_report(tmp_path / "out").html).text
    assert "under different conditions (device): do not compare them" in text
    assert "NVIDIA H100 (fps 4)" in text


def test_without_the_data_set_the_figures_remain(tmp_path):
    data = write_questions(tmp_path / "data", 10)
    questions = load_questions("question_file", **data["options"])
    write_point(tmp_path / "out", data, questions, "full", None, 0.9)
    write_point(tmp_path / "out", data, questions, "fps", 4, 0.8)
    (tmp_path / "data" / "questions.json").unlink()
    page = Page(build_report(tmp_path / "out").html)
    (pool,), (packed,) = page.data["pools"], page.data["sets"]
    assert pool["no_gallery"].startswith("Texts and pictures cannot be loaded: data.path=")
    assert pool["gallery"] == []
    assert sorted(packed["id"]) == sorted(question.id for question in questions)
    assert len(page.rows) == 2


def test_gallery_shows_the_stored_positions(folder, page):
    first = page.data["pools"][0]
    questions = page.data["sets"][first["set"]]
    assert first["grid"] == [6, 6]
    assert len(first["gallery"]) == 4
    for packed in first["rows"]:
        if packed["status"] != "complete" or packed["method"] == "full":
            continue
        lines = {line["id"]: line for line in answers(folder, packed["key"])}
        for number in first["gallery"]:
            assert packed["positions"][str(number)] == lines[questions["id"][number]]["positions"]
            assert questions["pictures"][str(number)].startswith("data:image/webp;base64,")


def test_questions_stay_within_their_budget():
    ids = [f"q{number:03}" for number in range(100)]
    drawn = sorted(ids, key=stable_hash)
    question = Question(drawn[50], "Which?" * 100, ("A", "B"), 0, None)
    assert list(payload._sample(ids, {}, max_bytes=10 * (7 + 30), rows=20)) == drawn[:10]
    known = {question.id: question}
    assert set(payload._sample(ids, known, max_bytes=10_000, rows=0)) == set(ids)
    assert question.id not in payload._sample(ids, known, max_bytes=700, rows=0)


@pytest.mark.slow
def test_a_large_page_shows_a_random_sample_of_questions_and_figures_of_all(folder, page, monkeypatch):
    monkeypatch.setattr(payload, "MAX_QUESTIONS", 6)
    report = build_report(folder, pictures=0)
    sampled = Page(report.html)
    assert sampled.table() == page.table()
    (questions,), (whole,) = sampled.data["sets"], page.data["sets"]
    assert questions["asked"] == whole["asked"] == len(whole["id"]) == 50
    assert len(questions["id"]) == report.questions == 6
    assert questions["id"] == sorted(sorted(whole["id"], key=stable_hash)[:6])
    places = [whole["id"].index(id) for id in questions["id"]]
    for pool, other in zip(sampled.data["pools"], page.data["pools"], strict=True):
        for row, known in zip(pool["rows"], other["rows"], strict=True):
            assert {name: row[name] for name in ("figures", "versus")} == {n: known[n] for n in ("figures", "versus")}
            if row["status"] == "complete":
                codes, all_codes = base64.b64decode(row["predictions"]), base64.b64decode(known["predictions"])
                assert list(codes) == [all_codes[place] for place in places]


def test_pictures_stay_within_their_budget():
    questions = [
        Question(f"q{n}", "?", ("a", "b"), 0, Image.effect_noise((99, 99), 90).convert("RGB")) for n in range(9)
    ]
    by_id = {question.id: question for question in questions}
    pictures = encode_pictures(by_id, by_id, side=99, budget_bytes=6000)
    assert 0 < len(pictures.uris) < 9
    assert pictures.left_out == 9 - len(pictures.uris)
    one = max(map(len, pictures.uris.values()))
    assert pictures.bytes < 6000 + one


def test_unreadable_pictures_are_reported(tmp_path):
    by_id = {
        "q": Question("q", "?", ("a", "b"), 0, tmp_path / "none.png"),
        "r": Question("r", "?", ("a", "b"), 0, None),
    }
    pictures = encode_pictures(by_id, by_id, side=99, budget_bytes=6000)
    assert pictures.uris == {}
    assert "none.png does not exist" in pictures.lost["q"]


def test_pictures_are_padded_or_cut_as_the_model_sees_them():
    wide = Image.new("RGB", (90, 30), "white")
    wide.paste((255, 0, 0), (0, 0, 20, 30))
    padded, cut = as_seen(wide, "pad"), as_seen(wide, "crop")
    assert padded.size == (90, 90)
    assert padded.getpixel((5, 45)) == (255, 0, 0)
    assert padded.getpixel((45, 5)) != (255, 255, 255)
    assert cut.size == (30, 30)
    assert set(cut.getdata()) == {(255, 255, 255)}
    assert data_uri(Image.new("RGB", (10, 10)), 40).startswith("data:image/webp;base64,")


def test_runner_writes_the_page_and_ends_with_json(folder, report, page, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    assert main([str(folder), f"output={output}", "pictures=3"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["path"] == str(output)
    assert line["bytes"] == output.stat().st_size
    assert (line["points"], line["complete"], line["questions"]) == (12, 10, 50)
    assert (report.pictures, line["pictures"]) == (50, 4 + 3)  # the gallery's four, and the list's
    again = Page(output.read_text())
    assert again.data["pools"] == page.data["pools"]  # the same results give the same page
    assert again.text == page.text


@pytest.mark.parametrize(("counted", "text"), [(False, ">39.6%"), (True, "39.6%"), (None, "39.6%")])
def test_a_method_without_flops_is_marked(counted, text):
    point = {"key": "k", "status": "complete", "flops_ratio": 0.3961, "selection_counted": counted}
    row = TableRow(point, "fps 4", "fps")
    assert flops_text(point["flops_ratio"], row) == text
    (column,) = (column for column in _columns(Evaluation("p", "p", [row], [], [], "")) if column.name == "flops_ratio")
    assert column.text(column.value(row), row) == text


def test_several_folders_are_one_page_with_each_point_once(folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert main([str(folder), str(other), f"output={tmp_path / 'both.html'}", "pictures=0"]) == 0
    both = Page((tmp_path / "both.html").read_text(encoding="utf-8"))
    keys = [row["key"] for row in both.rows]
    assert len(keys) == len(set(keys))
    assert set(stored(folder)) <= set(keys)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{tmp}/nothing"], "no such folder or file"),
        (["{tmp}"], "holds no grid point"),
        ([], "give one or several folders of results"),
        (["{tmp}", "{tmp}"], "output: missing; several folders need a name"),
        (["{tmp}", "{tmp}/nothing"], "nothing: no such folder or file"),
        (["{tmp}", "picture=3"], "picture: unknown key; keys are output, pictures"),
        (["{tmp}", "pictures=many"], "pictures=many: must be an integer from 0"),
        (["{tmp}/*"], "output: missing; "),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, text):
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
