"""Notebooks run in copies of the test's process."""

import base64
import contextlib
import io
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib_inline.config import InlineBackend
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers.forks import start_fork
from runners.sweep import main


class _Shell(InteractiveShell):
    """Figures are drawn within the notebook, without a window."""

    def enable_gui(self, gui: str | None = None) -> None:
        pass


def start_notebook(source: Path, target: Path, parameters: dict[str, Any]) -> BaseProcess:
    """Runs a notebook from top to bottom and writes it, with its outputs, to target. The exit code is 0 on success.

    The process is a fork, so it has all modules that were imported before; a kernel of its own imports them for ten
    seconds. What the notebook sets in matplotlib, pandas and warnings ends with it.
    """
    return start_fork(_run, source, target, parameters)


def _run(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    notebook = parameterize_notebook(load_notebook_node(str(source)), parameters, kernel_name="python3")
    shell = _Shell.instance()
    subprocess.run = _sweep_here  # type: ignore[assignment]
    InlineBackend.instance(parent=shell).print_figure_kwargs = {"bbox_inches": None}  # "tight" draws everything twice
    pd.set_option("display.max_columns", 20)  # as in a kernel; a terminal's tables are as narrow as it is
    for cell in notebook.cells:
        if cell.cell_type == "code":
            with shell.display_trap, capture_output() as captured:
                result = shell.run_cell(cell.source)
            cell.outputs = _outputs(captured)
            nbformat.write(notebook, target)
            result.raise_error()


def _sweep_here(command: list[str], **_: Any) -> subprocess.CompletedProcess:
    """A notebook's call of the sweep, in this process: another would import everything anew."""
    assert command[:3] == [sys.executable, "-m", "runners.sweep"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(command[3:])
    return subprocess.CompletedProcess(command, status, out.getvalue(), "")


def _outputs(captured: Any) -> list[Any]:
    """As a kernel writes them: images in base64."""
    outputs = [nbformat.v4.new_output("stream", text=captured.stdout)] if captured.stdout else []
    for output in captured.outputs:
        data = {
            kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for kind, value in output.data.items()
        }
        outputs.append(nbformat.v4.new_output("display_data", data=data))
    return outputs
