"""Notebooks run from top to bottom on a real sweep of the embedded model; the committed ones contain their results."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import papermill
import pytest
from helpers.notebooks import start_notebook

from analysis import at_equal_cost, compare, load_predictions, load_results
from runners.sweep import main

FOLDER = Path(__file__).parents[2] / "analysis"
# Parameters of each notebook besides its folder, and the number of figures that it draws.
NOTEBOOKS = {
    "compare_with_fastv": ({}, 5),
    "selection_maps": ({"kept": 8, "layers": [0, 2], "temperatures": [0.05, 0.5]}, 2),
    "layer_and_temperature": ({}, 3),
    "add_your_method": ({"limit": 4, "kept": [8]}, 3),
    "learned_and_adaptive": ({}, 2),
}
# Runs in a kernel of its own, as a reader's notebook does; the others run in forks, which have imported everything.
KERNEL = "plain"
SWEEP = ["method=fps,tome", "kept=8", "agg_layer=2,4", "temperature=0.05,0.5", "limit=4", "name=layers", "--multirun"]
# The folder with what learned_and_adaptive compares.
DIRECTIONS = [
    ["method=fps,semantic", "kept=8,48,auto", "aggregation=cross_attention,learned", "--multirun"],
    ["method=fps", "kept=[16,4]", "agg_layer=[2,4]"],
]
QUICK = ["latency.repeats=1", "latency.warmup=0", "latency.decode_tokens=1", "logger=none", "control_seeds=1"]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A folder with a sweep, and for each notebook a function that waits for its end; all run at the same time."""
    folder = tmp_path_factory.mktemp("notebooks")

    def start(name):
        results = "directions" if name == "learned_and_adaptive" else "layers"
        folders = {"output": str(folder)} if name == "add_your_method" else {"results": str(folder / results)}
        files = FOLDER / f"{name}.ipynb", folder / f"{name}.ipynb"
        return partial(finish, start_notebook(*files, folders | NOTEBOOKS[name][0]))

    def start_kernel():
        files = FOLDER / "layer_and_temperature.ipynb", folder / f"{KERNEL}.ipynb"
        settings = {"parameters": {"results": str(folder / "plain")}, "kernel_name": "python3", "progress_bar": False}
        return pool.submit(papermill.execute_notebook, *map(str, files), **settings).result

    def finish(process, timeout):
        process.join(timeout)
        assert process.exitcode == 0

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main([*SWEEP, *QUICK, f"output_dir={folder}"]) == 0
        copy_plain_points(folder)
        for sweep in DIRECTIONS:
            untimed = ["limit=4", "name=directions", "controls=[full]", "latency.repeats=0", "logger=none"]
            assert main([*sweep, *untimed, f"output_dir={folder}"]) == 0
        # The forks first, while no other thread runs.
        running = {name: start(name) for name in NOTEBOOKS}
        yield folder, running | {KERNEL: start_kernel()}


def copy_plain_points(folder):
    """The points of one layer and one temperature, as the README's first command leaves them."""
    results = load_results(folder / "layers", each_seed=True)
    one = results[~results["agg_layer"].eq(4).fillna(False) & ~results["temperature"].eq(0.5).fillna(False)]
    for point in one["folder"]:
        shutil.copytree(point, folder / "plain" / Path(point).name)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text(notebook):
    """Everything that the notebook prints, and its tables as plain text."""
    texts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs(notebook)]
    return "\n".join(texts)


def figures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs_from_top_to_bottom(started, name):
    folder, running = started
    running[name](timeout=300)
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    assert len(figures(notebook)) == NOTEBOOKS[name][1]
    if name == "compare_with_fastv":
        comparison = compare(load_results(folder / "layers"), load_predictions(folder / "layers"))
        for row in comparison.dropna(subset="difference").itertuples():
            shown = f"{row.difference:+.1f} [{row.diff_low:+.1f}, {row.diff_high:+.1f}]"
            assert shown in text(notebook)
    if name == "learned_and_adaptive":
        printed = text(notebook)
        for direction in ("learned", "semantic", "auto", "several scales, 16@2 4@4"):
            assert f"{direction} against fps at " in printed
        auto = at_equal_cost(load_results(folder / "directions"), load_predictions(folder / "directions"))
        for row in auto.dropna(subset="difference").itertuples():
            assert f"{row.difference:+.1f} [{row.diff_low:+.1f}, {row.diff_high:+.1f}]" in printed
    if name == "add_your_method":
        assert "local_contrast" in set(load_results(folder / "add_your_method")["method"])


@pytest.mark.slow  # a Jupyter kernel, where the others run in forks
def test_layers_and_temperatures_runs_on_results_of_one_layer_and_temperature(started):
    folder, running = started
    running[KERNEL](timeout=300)
    printed = text(nbformat.read(folder / f"{KERNEL}.ipynb", as_version=4))
    assert "no method was run at several layers or temperatures" in printed
    assert "the results have no settings on both sides to compare" in printed


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_states_no_result_of_another_run(name):
    """Prose holds no figures of its own; what is found is printed from the reader's results."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.search(r"committed (run|version)", prose)
    assert not re.search(r"\d+(\.\d+)?(%| points)(?! interval)", prose.replace("17.6 points", "").replace("95%", ""))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_committed_notebook_shows_its_results(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.metadata.get("tags") for cell in notebook.cells if cell.metadata.get("tags")] == [["parameters"]]
    assert len(figures(notebook)) >= NOTEBOOKS[name][1]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    # No paths of the machine that ran it.
    assert not re.search(r"/(work|tmp|home|root|Users)/", path.read_text(encoding="utf-8"))
