"""The paper's table: what stands in it, its marks, its three formats, and mistakes in one line."""

import csv
import io
import shutil
import subprocess

import numpy as np
import pytest
from helpers.results import make_point

from analysis import load_results
from analysis.paper import paper_table
from analysis.paper_formats import as_csv, as_latex, as_markdown, escape_latex
from runners.table import main
from tokensel import TokenselError

LLAVA = {"revision": "abc", "dtype": "float16", "path": "llava-hf/llava-1.5-7b-hf"}
SCIENCEQA = {"name": "scienceqa", "options": {}, "digest": "d1"}
POPE = {"name": "pope_50%_a&b", "options": {}, "digest": "d2"}


def answers(right, n=40):
    return {f"q{index}": index < right for index in range(n)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    for name, data, figures in (
        ("a", SCIENCEQA, {"full": 32, "fps": 24, "tome": 20, "fastv": 24, "random": 16}),
        ("b", POPE, {"full": 36, "fps": 18, "tome": 27, "fastv": 9}),
    ):
        for method, right in figures.items():
            kept = None if method == "full" else 64
            make_point(root / name, method, kept, answers(right), model=LLAVA, data=data)
    make_point(root / "a", "random", 64, answers(20), model=LLAVA, data=SCIENCEQA, seed=1)
    make_point(root / "a", "fps", 16, answers(10), model=LLAVA, data=SCIENCEQA)
    make_point(root / "a", "dart", 64, None, model=LLAVA, data=SCIENCEQA, error="boom")
    return root


@pytest.fixture(scope="module")
def table(folders):
    return paper_table(load_results(folders))


def lines_of(table, kept):
    (lines,) = (lines for number, lines in table.blocks if number == kept)
    return {line.label: line for line in lines if not line.source}


def test_lines_hold_percent_by_benchmark_and_the_mean_share_of_full(table):
    assert table.columns == ["scienceqa", "pope_50%_a&b"]
    assert [kept for kept, _ in table.blocks] == [None, 64, 16]
    fps = lines_of(table, 64)["fps"]
    assert fps.accuracy == {"scienceqa": 60.0, "pope_50%_a&b": 45.0}
    assert fps.of_full == pytest.approx(100 * (24 / 32 + 18 / 36) / 2)
    assert lines_of(table, None)["full"].of_full == 100


def test_a_method_without_a_figure_in_every_column_has_no_mean(table):
    assert lines_of(table, 16)["fps"].of_full is None
    assert lines_of(table, 64)["random"].of_full is None


def test_seeds_are_averaged_and_failed_points_are_left_out(table):
    random = lines_of(table, 64)["random"]
    assert (random.accuracy["scienceqa"], random.seeds) == (pytest.approx(45.0), 2)
    assert random.spread == {"scienceqa": pytest.approx(np.std([40, 50], ddof=1))}
    assert "45.0 ±7.1 |" in as_markdown(table)
    assert r"45.0 {\footnotesize $\pm$ 7.1}" in as_latex(table)
    assert "random,2,,45.0,7.1,,,\n" in as_csv(table)
    assert "dart" not in lines_of(table, 64)


def test_a_line_of_fewer_questions_says_so_and_competes_for_no_mark(tmp_path):
    make_point(tmp_path / "s", "full", None, answers(30))
    make_point(tmp_path / "s", "fps", 64, answers(20))
    make_point(tmp_path / "s", "dart", 64, answers(10))
    make_point(tmp_path / "s", "tome", 64, answers(5, n=5))
    lines = lines_of(paper_table(load_results(tmp_path / "s")), 64)
    assert (lines["tome (5 questions)"].marks, lines["tome (5 questions)"].of_full) == ({}, None)
    assert lines["fps"].marks["diagrams"] == "best"


def test_lines_of_one_block_that_differ_in_cost_are_noted(tmp_path):
    make_point(tmp_path / "s", "fps", 64, answers(20))
    assert paper_table(load_results(tmp_path / "s")).notes == ["Questions: diagrams 40."]
    make_point(tmp_path / "s", "fps", 64, answers(20), agg_layer=1, stages="*@1 32@4")
    key = make_point(tmp_path / "s", "tome", 64, answers(20))
    path = tmp_path / "s" / key / "metrics.json"
    path.write_text(path.read_text().replace('"flops_ratio": 0.28', '"flops_ratio": 0.58'))
    table = paper_table(load_results(tmp_path / "s"))
    assert table.notes == [
        "Lines with 64 visual tokens need 29 to 59% of the full model's FLOPs: they are not equal in cost.",
        "Questions: diagrams 40.",
    ]
    assert r"59\% of the full" in as_latex(table)


def test_points_of_a_budget_or_a_share_are_compared_at_it_whatever_their_kept(tmp_path):
    for method, kept, right in (("fps", 60, 20), ("tome", 64, 22), ("dart", 12, 21), ("pool", 144, 20)):
        make_point(tmp_path / "s", method, kept, answers(right))
    results = load_results(tmp_path / "s")
    results["budget"] = results["budget"].mask(results["kept"] < 65, "flops:0.4, average_tokens:200")
    results["kept_share"] = results["kept_share"].mask(results["kept"] == 144, "25%")
    table = paper_table(results)
    assert [block for block, _ in table.blocks] == ["25%", "average_tokens:200", "flops:0.4"]
    for block in ("average_tokens:200", "flops:0.4"):
        marks = {name: line.marks.get("diagrams") for name, line in lines_of(table, block).items()}
        assert list(marks.items()) == [("dart", "second"), ("fps", None), ("tome", "best")]
    assert r"\textit{40\% of the full model's FLOPs}" in as_latex(table)
    assert "200 visual tokens per layer" in as_latex(table)
    assert r"\textit{25\% of the visual tokens}" in as_latex(table)
    assert [block for block, _ in paper_table(results, budget="flops:0.4").blocks] == ["flops:0.4"]


def test_the_best_and_second_of_the_methods_are_marked_and_ties_share_a_mark(table):
    lines = lines_of(table, 64)
    assert {name: line.marks.get("scienceqa") for name, line in lines.items()} == {
        "fps": "best", "fastv": "best", "tome": "second", "random": None,
    }  # fmt: skip
    assert {name: line.marks.get("pope_50%_a&b") for name, line in lines.items()} == {
        "tome": "best", "fps": "second", "fastv": None, "random": None,
    }  # fmt: skip
    assert not lines_of(table, None)["full"].marks


def test_a_control_that_is_not_below_the_best_method_is_noted(tmp_path):
    for method, right in (("fps", 21), ("random", 21)):
        make_point(tmp_path / "s", method, 64, answers(right))
    note = "random is a control and gets no mark; with 64 visual tokens it is not below the best method in diagrams."
    assert note in paper_table(load_results(tmp_path / "s")).notes
    make_point(tmp_path / "s", "dart", 64, answers(22))
    assert note not in paper_table(load_results(tmp_path / "s")).notes


def test_published_figures_of_the_same_model_and_data_are_marked_as_such(table):
    (lines,) = (lines for number, lines in table.blocks if number == 64)
    assert [line.label for line in lines if not line.source] == ["fastv", "fps", "tome", "random"]
    published = [line for line in lines if line.source]
    assert {"visionzip", "sparsevlm", "fastv"} <= {line.method for line in published}
    assert all(set(line.accuracy) == {"scienceqa"} and not line.marks for line in published)
    assert "MMTok, arXiv 2508.18264, table 1" in table.sources
    assert "published: MMTok" in as_markdown(table)
    assert "| fastv (published) [1] | 64 | 51.1 |  |  |" in as_markdown(table)


def test_published_figures_of_another_model_are_not_shown(tmp_path):
    make_point(tmp_path / "s", "full", None, answers(30))
    make_point(tmp_path / "s", "fps", 64, answers(20))
    assert not paper_table(load_results(tmp_path / "s")).sources


def test_csv_holds_the_same_numbers(table):
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    fps = next(row for row in rows if row["method"] == "fps" and row["kept"] == "64")
    assert (fps["scienceqa"], fps["pope_50%_a&b"], fps["% of full"]) == ("60.0", "45.0", "62.5")
    assert rows[0]["method"] == "full"
    assert rows[0]["kept"] == ""


def test_markdown_has_as_many_cells_in_every_line(table):
    lines = [line for line in as_markdown(table).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert any("| **60.0** |" in line for line in lines)


def test_latex_is_escaped_and_marked(table):
    text = as_latex(table)
    assert r"pope\_50\%\_a\&b" in text
    assert r"\textbf{60.0}" in text
    assert r"\underline{50.0}" in text
    assert r"\textit{64 visual tokens}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {3}


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles(table, tmp_path):
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{as_latex(table)}\end{{document}}"
    (tmp_path / "table.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_no_character_reaches_latex_unescaped():
    assert escape_latex(r"a\b{c}_$%&#~^<>|") == (
        r"a\textbackslash{}b\{c\}\_\$\%\&\#\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"
    )


def test_settings_in_which_points_differ_are_lines_of_their_own(tmp_path):
    for layer in (2, 9):
        make_point(tmp_path / "s", "fps", 64, answers(layer), agg_layer=layer)
    assert set(lines_of(paper_table(load_results(tmp_path / "s")), 64)) == {"fps (agg_layer 2)", "fps (agg_layer 9)"}


def test_results_that_may_not_be_compared_are_refused(tmp_path):
    make_point(tmp_path / "s", "fps", 64, answers(3))
    make_point(tmp_path / "t", "fps", 64, answers(3), scoring="generate")
    with pytest.raises(
        TokenselError, match=r"columns=data: diagrams has results of several kinds .*; use columns=pool"
    ):
        paper_table(load_results(tmp_path))
    assert len(paper_table(load_results(tmp_path), columns="pool").columns) == 2


def test_the_command_prints_the_table_or_writes_it(folders, tmp_path, capsys):
    assert main([str(folders / "a"), str(folders / "b"), "--budget", "64", "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("kept,method,")
    assert ",fps,1,,60.0,,45.0,,62.5" in printed
    assert main([str(folders), "format=latex", "published=false", f"output={tmp_path / 'x' / 't.tex'}"]) == 0
    assert (tmp_path / "x" / "t.tex").read_text().startswith(r"\begin{tabular}{lrrr}")
    assert "published" not in (tmp_path / "x" / "t.tex").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "results: give one or several folders"),
        (["FOLDER", "format=html"], "format=html: choose from markdown, latex, csv"),
        (["FOLDER", "--budget", "many"], "budget=many: must be a number of visual tokens, a share"),
        (["FOLDER", "--budget"], "--budget: has no value; write budget=VALUE"),
        (["FOLDER", "budget=7"], "results: hold no complete point with budget=7; they have 64, 16"),
        (["FOLDER", "columns=rows"], "columns=rows: choose from data, model, pool"),
        (["FOLDER", "colour=red"], "colour: unknown key"),
        (["nowhere"], "source=nowhere: does not exist"),
    ],
)
def test_a_mistake_is_one_line(folders, capsys, arguments, message):
    assert main([str(folders) if argument == "FOLDER" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
