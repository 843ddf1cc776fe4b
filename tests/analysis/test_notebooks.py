"""The notebooks run from top to bottom on a real sweep of the embedded model, and the committed ones show results."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import pytest

from analysis import compare, load_predictions, load_results
from runners.sweep import main

FOLDER = Path(__file__).parents[2] / "analysis"
# What each is given beside the folder, and how many figures it has to draw.
NOTEBOOKS = {
    "compare_with_fastv": ({}, 5),
    "selection_maps": ({"kept": 8, "layers": [0, 2], "temperatures": [0.05, 0.5]}, 2),
    "layer_and_temperature": ({}, 3),
    "add_your_method": ({"limit": 8, "kept": [8]}, 3),
}
SWEEP = ["method=fps,tome", "kept=8", "agg_layer=2,4", "temperature=0.05,0.5", "limit=12", "name=layers", "--multirun"]
QUICK = ["latency.repeats=1", "latency.warmup=0", "latency.decode_tokens=1", "logger=none"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a sweep in it, and each notebook being run beside it, all at the same time."""
    folder = tmp_path_factory.mktemp("notebooks")

    def start(name):
        place = {"output": str(folder)} if name == "add_your_method" else {"results": str(folder / "layers")}
        files = str(FOLDER / f"{name}.ipynb"), str(folder / f"{name}.ipynb")
        settings = {"parameters": place | NOTEBOOKS[name][0], "kernel_name": "python3", "progress_bar": False}
        return pool.submit(papermill.execute_notebook, *files, **settings)

    # Threads of one process: kernels that several processes start at once may be given the same port.
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(NOTEBOOKS)) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        running = {"add_your_method": start("add_your_method")}  # makes its own sweep
        assert main([*SWEEP, *QUICK, f"output_dir={folder}"]) == 0
        running |= {name: start(name) for name in NOTEBOOKS if name not in running}
        yield folder, running


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text(notebook):
    """All that it says: printed, and tables as plain text."""
    told = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs(notebook)]
    return "\n".join(told)


def figures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs_from_top_to_bottom(world, name):
    folder, running = world
    running[name].result(timeout=300)
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    assert len(figures(notebook)) == NOTEBOOKS[name][1]
    if name == "compare_with_fastv":
        comparison = compare(load_results(folder / "layers"), load_predictions(folder / "layers"))
        for row in comparison.dropna(subset="difference").itertuples():
            shown = f"{row.difference:+.1f} [{row.diff_low:+.1f}, {row.diff_high:+.1f}]"
            assert shown in text(notebook)
    if name == "add_your_method":
        assert "local_contrast" in set(load_results(folder / "add_your_method")["method"])


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
    # Nothing about the machine that it was run on.
    assert not re.search(r"/(work|tmp|home|root|Users)/", path.read_text(encoding="utf-8"))
