"""What a sweep's rows are compared with, what is told beside accuracy, and where figures say they come from."""

import io
import subprocess
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from runners.terminal.table import caption, print_table
from tokensel.data import Question
from tokensel.evaluation.digests import ids_digest
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.provenance import checkout_commit, checkpoint_files, scrub
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.stored_answers import read_answers
from tokensel.evaluation.sweep.ranking import best_records, levels, sentences
from tokensel.evaluation.sweep.results import against_fastv, as_record
from tokensel.evaluation.sweep.rows import TableRow
from tokensel.evaluation.sweep.work import PointWork


def result(method, correct, **setting):
    base = {"model": "m", "data": "d", "scoring": "generate", "limit": None, "layout": "compact", "agg_layer": 2}
    base |= {"prompt": "llava", "conv": "model", "image_aspect": "pad", "reading": "llava", "kept": 4}
    metrics = {"n": len(correct), "accuracy": sum(correct) / len(correct), "ci_low": 0.0, "ci_high": 1.0, "skipped": 0}
    return TableRow(base | {"method": method} | setting, metrics, [stored(method, correct)], 0.5)


def stored(key, correct):
    records = [{"id": str(number), "correct": right} for number, right in enumerate(correct)]
    return SimpleNamespace(key=key, answers=read_answers(records))


def seeds(method, *rows, **setting):
    """One line of several seeds."""
    joined = result(method, rows[0], **setting, seed=None, seeds=", ".join(map(str, range(len(rows)))))
    joined.points = [stored(f"{method}{seed}", row) for seed, row in enumerate(rows)]
    joined.metrics["accuracy_sd"] = 0.025
    return joined


def shares(*rights, n=100):
    """For each of the numbers, answers of which so many are right."""
    return [[number < right for number in range(n)] for right in rights]


def at(cost, row):
    row.metrics["flops_ratio"] = cost
    return row


def test_methods_that_do_not_differ_significantly_tie_and_no_best_is_named():
    names = ("fastv", "fps", "tome", "random")
    rows = [result(name, right) for name, right in zip(names, shares(70, 69, 66, 30), strict=True)]
    assert sentences(rows) == ["kept 4: fastv 70.0%, fps 69.0% and 1 more tie; 1 is behind"]
    (record,) = best_records(rows)
    assert (record["best"], record["tied"]) == (None, ["fastv (kept 4)", "fps (kept 4)", "tome (kept 4)"])


def test_a_best_is_named_only_where_it_beats_all_others_after_correction():
    rows = [result(name, right) for name, right in zip(("fps", "tome", "fastv"), shares(90, 60, 50), strict=True)]
    (line,) = sentences(rows)
    assert line.startswith("kept 4: best is fps 90.0%, ahead of all 2 others (corrected p < 0.001)")
    # The same lead is no longer a finding where 60 kept were tried.
    close = [result(name, right) for name, right in zip(("fps", "fastv"), shares(80, 70), strict=True)]
    many = [result(n, r, kept=k) for k in range(5, 65) for n, r in zip(("fps", "fastv"), shares(1, 1), strict=True)]
    assert "best is fps" in sentences(close)[0]
    assert "fps 80.0% and fastv 70.0% tie" in sentences(close + many)[0]


def test_equal_accuracies_tie():
    rows = [result(name, right) for name, right in zip(("fps", "fastv"), shares(70, 70), strict=True)]
    assert sentences(rows) == ["kept 4: fastv 70.0% and fps 70.0% tie"]


def test_a_deeper_layer_is_not_called_best_at_equal_kept_but_at_its_cost():
    names = ("fps", "fastv", "fps", "fastv")
    layers, costs = (1, 1, 4, 4), (0.29, 0.292, 0.60, 0.61)
    rows = [
        at(cost, result(name, right, agg_layer=layer))
        for name, right, layer, cost in zip(names, shares(60, 58, 90, 62), layers, costs, strict=True)
    ]
    told = sentences(rows)
    assert told[0] == (
        "with 29% of the FLOPs: fps (kept 4, agg_layer 1) 60.0% and fastv (kept 4, agg_layer 1) 58.0% tie"
    )
    assert told[1].startswith("with 61% of the FLOPs: best is fps (kept 4, agg_layer 4) 90.0%, ahead of all 3 others")
    assert not any(line.startswith("kept") for line in told)


def test_a_cheaper_point_that_stays_best_is_best_with_more_flops_too():
    rows = [
        at(cost, result("fps", right, agg_layer=layer))
        for right, layer, cost in zip(shares(90, 60), (1, 4), (0.3, 0.6), strict=True)
    ]
    assert sentences(rows) == [
        "with 30% to 60% of the FLOPs: best is fps (kept 4, agg_layer 1) 90.0%, ahead of fps (kept 4, agg_layer 4) "
        "(corrected p < 0.001)"
    ]


def test_equal_kept_at_nearly_equal_cost_is_compared_at_its_kept():
    rows = [at(cost, result(name, [True] * 9)) for name, cost in (("fps", 0.391), ("fastv", 0.401))]
    assert [level.at for level in levels(rows)] == ["kept 4"]


def test_a_kept_that_a_budget_was_solved_for_stays_in_its_kept_too():
    rows = [result("fps", shares(62)[0], budget="flops:0.4"), result("fastv", shares(60)[0])]
    assert sentences(rows) == ["kept 4: fps 62.0% and fastv 60.0% tie"]
    rows[1].setting["budget"] = "flops:0.4"
    assert sentences(rows) == ["budget flops:0.4: fps 62.0% and fastv 60.0% tie"]


def test_a_large_grid_over_layers_is_ranked_in_time():
    rows = [
        at(layer / 30 + kept / 1000, result("fps", right, agg_layer=layer, kept=kept))
        for layer in range(1, 25)
        for kept, right in zip((4, 8, 16), shares(layer, layer + 1, layer + 2), strict=True)
    ]
    began = time.process_time()
    told = sentences(rows)
    assert time.process_time() - began < 5
    assert told[-1].startswith("with 82% of the FLOPs: fps (kept 16, agg_layer 24) 26.0%")


def test_lines_with_fewer_questions_are_named_but_take_no_place():
    rows = [result("fps", shares(62)[0]), result("fastv", shares(60)[0]), result("dart", [True] * 5)]
    (line,) = sentences(rows)
    assert line == "kept 4: fps 62.0% and fastv 60.0% tie; not ranked, with fewer questions: dart (5)"
    assert against_fastv(rows[2], rows)["n"] == 5


def test_names_do_not_state_a_code_that_only_superseded_lines_differ_in():
    rows = [result("fps", [True] * 9, code="new"), result("fps", [True] * 9, code="old"), result("tome", [True] * 9)]
    rows[1].superseded = True
    assert sentences(rows) == ["kept 4: fps 100.0% and tome 100.0% tie"]


def test_failed_and_superseded_lines_do_not_compete():
    rows = [result(name, [True] * 9) for name in ("fps", "tome", "fastv")]
    rows[0].superseded, rows[1].error = True, "RuntimeError"
    assert sentences(rows) == []
    assert against_fastv(rows[0], rows) is None


def test_seeds_are_compared_by_their_mean_and_shown_with_their_deviation(capsys):
    random = seeds("random", *shares(60, 64, 50))
    fastv = result("fastv", shares(58)[0])
    assert against_fastv(random, [random, fastv])["difference"] == pytest.approx(0)
    print_table([fastv, random])
    printed = capsys.readouterr().out
    assert "60.0 ±2.5 [0.0, 100.0]" in printed
    assert "standard deviation over seeds (random 0, 1, 2)" in printed
    assert "one seed" not in printed


def test_random_of_one_seed_is_told_how_to_get_its_spread():
    fps, random = result("fps", [True] * 8), result("random", [True] * 8)
    assert "random without ±: one seed; control_seeds=3 gives it three." in caption([fps, random])
    assert "control_seeds" not in caption([fps])


def test_a_method_without_flops_and_a_difference_at_another_cost_are_marked(capsys):
    fps, fastv = at(0.2, result("fps", [True] * 8)), at(0.4, result("fastv", [False] * 8))
    fps.metrics["selection_counted"] = False
    print_table([fps, fastv])
    printed = capsys.readouterr().out
    assert ">0.200" in printed
    assert "+100.0*" in printed
    assert "has no flops()" in printed
    assert "more than 5% from fastv's" in " ".join(printed.split())


@pytest.mark.parametrize("other", [{"prompt": "lmms"}, {"conv": "x"}, {"image_aspect": "crop"}, {"reading": "exact"}])
def test_no_row_is_compared_with_fastv_of_another_protocol(other):
    fps, fastv = result("fps", [True] * 8), result("fastv", [False] * 8)
    assert against_fastv(fps, [fps, fastv])["difference"] == 100
    elsewhere = result("fastv", [False] * 8, **other)
    assert against_fastv(fps, [fps, elsewhere]) is None
    assert [best["runner_up"] for best in best_records([fps, elsewhere])] == [None, None]


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
    assert against_fastv(fps, [other, fps, fastv])["difference"] == 100
    assert [best["at"] for best in best_records([fps, fastv])] == ["budget average_tokens:64"]
    assert "kept is solved for the budget average_tokens:64" in caption([fps, fastv])


def test_a_share_is_sorted_by_its_count_and_shown_as_a_share():
    rows = [result("fps", [True] * 8, kept=kept) for kept in (8, "25%", 64)]
    for row in rows:
        row.metrics["provenance"] = {"protocol": {"visual_tokens": 36}}
    assert [best["at"] for best in best_records(rows)] == ["kept 8", "kept 25%", "kept 64"]
    record = as_record(rows[1], rows)
    assert (record["kept"], record["kept_share"]) == (9, "25%")


def printed_at(width, *rows):
    """The table's lines, and everything that is printed, on a terminal of this width."""
    console = Console(width=width, file=io.StringIO())
    print_table(rows, console)
    lines = console.file.getvalue().splitlines()
    return lines[: 4 + len(rows)], "\n".join(lines)


def measured(row):
    figures = {"tokens_left": 4, "tokens_layer_mean": 12.0, "flops_ratio": 0.25, "kv_bytes": 2**20, "speedup": 2.0}
    row.metrics |= {**figures, "prefill_ms": {"p50": 46.1}}
    return row


@pytest.mark.parametrize(
    ("width", "gone"),
    [(60, "left, tokens/layer, n, prefill ms, speed-up, KV"), (80, "left, prefill ms, KV"), (160, "")],
)
def test_a_narrow_terminal_leaves_out_columns_by_importance_and_names_them(width, gone):
    rows = [measured(result("fps", [True] * 200)), measured(result("fastv", [False] * 200))]
    lines, printed = printed_at(width, *rows)
    assert max(map(len, printed.splitlines())) <= width
    assert (f"No room for: {gone}. A wider window" in " ".join(printed.split())) == bool(gone)
    row = next(line.split() for line in lines if line.startswith("fps"))
    assert row[:2] == ["fps", "4"]
    assert "100.0 [0.0, 100.0]" in printed
    assert {"+100.0", "0.250"} <= set(row)
    for name in gone.split(", "):
        assert not name or f"{name}: " not in printed.lower()


def test_columns_without_any_value_are_neither_shown_nor_explained_nor_missed():
    _, printed = printed_at(160, result("fps", [True] * 8), result("tome", [True] * 8))
    assert not [word for word in ("prefill", "Speed-up", "FLOPs", "vs fastv", "No room") if word in printed]
    assert "p of one comparison" in printed


def test_a_column_that_tells_lines_apart_goes_after_the_interval_and_no_name_is_ever_cut():
    options = {f"method.option_{letter}": letter * 12 for letter in "abcdef"}
    names = ("a_method_with_a_very_long_name", "another")
    rows = [measured(result(name, [True] * 8, **each)) for name in names for each in ({}, options)]
    lines, printed = printed_at(80, *rows)
    assert max(map(len, printed.splitlines())) <= 80
    assert [line.split()[0] for line in lines if "100.0" in line] == [names[0]] * 2 + [names[1]] * 2
    assert "option_a" in lines[0] + lines[1]
    assert "[0.0" not in printed
    lines, _ = printed_at(30, *rows)
    assert [line.split() for line in lines if "100.0" in line] == [[name, "4", "100.0"] for name in names for _ in "12"]


def test_n_stays_where_points_answered_different_numbers_of_questions():
    rows = [measured(result("fps", [True] * count)) for count in (8, 100)]
    assert "n" in " ".join(printed_at(60, *rows)[0][:2]).split()
    assert "n" not in " ".join(printed_at(40, rows[0], rows[0])[0][:2]).split()


def test_mme_and_pope_have_their_own_figure_in_the_table(capsys):
    mme, pope, plain = (measured(result("fps", [True, False], data=name)) for name in ("mme", "pope", "diagrams"))
    mme.metrics["yes_no"] = {"perception": 1500.0, "cognition": 300.25, "categories": {"count": {"score": 1.0}}}
    pope.metrics["yes_no"] = {"f1": 0.625, "categories": {}}

    def cells(*results):
        print_table(results)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        return lines[1], lines[3 : 3 + len(results)]  # the second line of the header

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
