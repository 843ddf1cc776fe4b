"""What a sweep's rows are compared with, what is told beside accuracy, and where figures say they come from."""

import io
import subprocess

import pytest
from rich.console import Console

from runners.terminal.table import caption, print_table
from tokensel.data import Question
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.keys import ids_digest
from tokensel.evaluation.provenance import checkout_commit, checkpoint_files, scrub
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.sweep.results import TableRow, against_fastv, as_record, best_at_each_kept
from tokensel.evaluation.sweep.work import PointWork


def result(method, correct, **setting):
    base = {"model": "m", "data": "d", "scoring": "generate", "limit": None, "layout": "compact", "agg_layer": 2}
    base |= {"prompt": "llava", "conv": "model", "image_aspect": "pad", "reading": "llava", "kept": 4}
    metrics = {"n": len(correct), "accuracy": sum(correct) / len(correct), "ci_low": 0.0, "ci_high": 1.0}
    answers = {str(number): right for number, right in enumerate(correct)}
    return TableRow("key", base | {"method": method} | setting, metrics, answers, 0.5)


@pytest.mark.parametrize("other", [{"prompt": "lmms"}, {"conv": "x"}, {"image_aspect": "crop"}, {"reading": "exact"}])
def test_no_row_is_compared_with_fastv_of_another_protocol(other):
    fps, fastv = result("fps", [True] * 8), result("fastv", [False] * 8)
    assert against_fastv(fps, [fps, fastv])["difference"] == 100
    elsewhere = result("fastv", [False] * 8, **other)
    assert against_fastv(fps, [fps, elsewhere]) is None
    assert [best["runner_up"] for best in best_at_each_kept([fps, elsewhere])] == [None, None]


def test_ties_are_told_below_the_table_where_there_are_any():
    rows = [result("fps", [True] * 9), result("tome", [True] * 9)]
    for row, ties in zip(rows, (None, 0), strict=True):
        row.metrics |= {"n_ties": ties, "skipped": 0}
    assert "tie" not in caption(rows)
    rows[1].metrics["n_ties"] = 7
    assert caption(rows).splitlines()[-1].startswith("Up to 7 of 9 answers hang on a tie")


def test_lines_of_one_budget_are_compared_whatever_their_kept(capsys):
    fps = result("fps", [True] * 8, kept=30, budget="average_tokens:64")
    fastv = result("fastv", [False] * 8, kept=29, budget="average_tokens:64")
    other = result("fastv", [True] * 8, kept=30, budget="flops:0.4")
    for row in (fps, fastv, other):
        row.metrics["skipped"] = 0
    assert against_fastv(fps, [other, fps, fastv])["difference"] == 100
    assert [best["at"] for best in best_at_each_kept([fps, fastv])] == ["budget average_tokens:64"]
    assert "kept is solved for the budget average_tokens:64" in caption([fps, fastv])


def test_a_share_is_sorted_by_its_count_and_shown_as_a_share():
    rows = [result("fps", [True] * 8, kept=kept) for kept in (8, "25%", 64)]
    for row in rows:
        row.metrics["provenance"] = {"protocol": {"visual_tokens": 36}}
    assert [best["at"] for best in best_at_each_kept(rows)] == ["kept 8", "kept 25%", "kept 64"]
    record = as_record(rows[1], rows)
    assert (record["kept"], record["kept_share"]) == (9, "25%")


def test_a_narrow_terminal_leaves_out_columns_and_says_so():
    row = result("fps", [True] * 8)
    row.metrics |= {"tokens_left": 4, "tokens_layer_mean": 12.0, "flops_ratio": 0.25, "kv_bytes": 2**20, "speedup": 2.0}
    for width in (80, 200):
        console = Console(width=width, file=io.StringIO())
        print_table([row], "", console)
        printed = console.file.getvalue()
        assert max(map(len, printed.splitlines())) <= width
        assert {"left", "tokens/layer", "FLOPs", "accuracy"} <= set(printed.split())
        assert ("No room for" in printed) == (width == 80)


def test_mme_and_pope_have_their_own_figure_in_the_table(capsys):
    mme, pope, plain = (result("fps", [True, False], data=data) for data in ("mme", "pope", "diagrams"))
    mme.metrics["yes_no"] = {"perception": 1500.0, "cognition": 300.25, "categories": {"count": {"score": 1.0}}}
    pope.metrics["yes_no"] = {"f1": 0.625, "categories": {}}

    def cells(*results):
        print_table(results, "")
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        return lines[1], lines[3 : 3 + len(results)]

    header, _ = cells(plain)
    assert not {"score", "F1"} & set(header)
    header, rows = cells(mme, pope, plain)
    assert {"score", "F1"} <= set(header)
    assert ["1800.2" in row for row in rows] == [True, False, False]
    assert ["62.5" in row for row in rows] == [False, True, False]
    assert as_record(mme, [mme])["yes_no_perception"] == 1500.0
    mme.metrics["yes_no"]["cognition"] = None
    assert "score" not in cells(mme)[0]


def test_figures_of_yes_no_questions_stand_beside_the_others(tmp_path):
    shared = {"text": "?", "choices": ("Yes", "No"), "image": None, "form": "yes_no", "category": "popular"}
    asked = [Question(id=f"{number}", answer=number % 2, **shared) for number in range(4)]
    store = PointStore(tmp_path / "point")
    store.append([{"id": question.id, "prediction": 0, "correct": question.answer == 0} for question in asked])
    work = PointWork(GridPoint("full"), "point", store, {}, asked)
    figures = work.figures(asked)
    assert figures["accuracy"] == figures["yes_no"]["precision"] == 0.5
    assert figures["yes_no"]["recall"] == 1.0
    assert work.figures(asked[:1])["yes_no"]["precision"] == 1.0
    assert "yes_no" not in work.figures([Question(id="0", text="?", choices=("x", "y"), answer=0, image=None)])


def test_a_complete_point_is_written_again_if_a_later_start_noted_a_failure(tmp_path):
    question = Question(id="0", text="?", choices=("x", "y"), answer=0, image=None)
    work = PointWork(GridPoint("full"), "point", PointStore(tmp_path / "point"), {}, [question])
    work.store.append([{"id": "0", "prediction": 0, "correct": True}])
    work.finish({"questions": ids_digest([question])})
    work.compare_with_folder({"repeats": 0})
    assert (work.missing, work.lacks_times, work.lacks_figures) == (0, False, False)
    work.fail("RuntimeError: no idea")
    work.compare_with_folder({"repeats": 0})
    assert (work.missing, work.lacks_times, work.lacks_figures) == (0, False, True)


def test_commit_is_that_of_the_checkouts_own_top(tmp_path):
    def git(*command):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert checkout_commit(tmp_path) is None
    checkout_commit.cache_clear()
    git("init")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "file").write_text("one")
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert checkout_commit(tmp_path) == commit
    assert checkout_commit(tmp_path / "package") is None
    (tmp_path / "package" / "file").write_text("two")
    checkout_commit.cache_clear()
    assert checkout_commit(tmp_path) == f"{commit}-dirty"


def test_each_file_of_a_checkpoint_has_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr("tokensel.evaluation.provenance._WHOLE_BYTES", 1 << 10)
    monkeypatch.setattr("tokensel.evaluation.provenance._BLOCK_BYTES", 8)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.md").write_text("")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(4096))
    before = checkpoint_files(str(tmp_path))
    assert set(before) == {"config.json", "model.safetensors"}
    for content in (bytes(4095) + b"1", b"1" + bytes(4095), bytes(4097)):
        weights.write_bytes(content)
        checkpoint_files.cache_clear()
        after = checkpoint_files(str(tmp_path))
        assert after["config.json"] == before["config.json"]
        assert after["model.safetensors"] != before["model.safetensors"]
    assert checkpoint_files("owner/name") is None


def test_secrets_are_scrubbed_from_the_command():
    assert scrub("a logger.key=abc x=1 api_token: tok https://me:pw@host/x") == (
        "a logger.key=*** x=1 api_token: *** https://***@host/x"
    )
