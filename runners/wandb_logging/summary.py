"""What the run of a whole sweep holds: its table and figures, and an artifact with the results and the report."""

import re
import tempfile
from pathlib import Path
from typing import Any

from tokensel.errors import TokenselError

_FILES = ("results.parquet", "summary.json", "*.png")
_COLUMNS = (
    *("method", "kept", "budget", "agg_layer", "temperature", "seeds", "n", "accuracy", "accuracy_sd", "ci_low"),
    *("ci_high", "flops_ratio", "speedup", "prefill_ms_p50", "kv_bytes", "device", "key"),
)


def sweep_values(wandb: Any, folder: Path, name: str, with_report: bool) -> dict[str, Any]:
    """The last step of the sweep's run: the table, every figure, and an artifact with all files.

    with_report: whether the artifact has the report, which takes seconds.
    """
    artifact = wandb.Artifact(artifact_name(name), type="results", description="python -m runners.report reads it")
    for path in files_of(folder):
        artifact.add_file(str(path), name=path.name)
    with tempfile.TemporaryDirectory() as made:
        report = Path(made) / "report.html"
        if with_report and write_report(folder, report):
            artifact.add_file(str(report), name=report.name)  # copies it
    figures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    return {"table": table(wandb, folder), "results": artifact, **figures}


def artifact_name(name: str) -> str:
    """A name that W&B allows: letters, digits and "-_."; at most 128 characters."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:128]


def table(wandb: Any, folder: Path) -> Any:
    """The lines of the sweep's table."""
    from analysis.results import load_results

    results = load_results(folder)
    columns = [name for name in _COLUMNS if name in results and results[name].notna().any()]
    shown = results[columns].astype(object)
    rows = shown.where(shown.notna(), None).to_numpy().tolist()
    return wandb.Table(columns=columns, data=rows)


def write_report(folder: Path, path: Path) -> bool:
    """Writes the report of a folder; returns whether it could be built. The run is worth having without one."""
    from analysis.report import build_report

    try:
        path.write_text(build_report(folder).html, encoding="utf-8")
    except (TokenselError, OSError):
        return False
    return True


def files_of(folder: Path) -> list[Path]:
    """The files of a sweep as a whole that its run holds; none for a folder of several sweeps."""
    return [path for pattern in _FILES for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
