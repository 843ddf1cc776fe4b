"""Saves a W&B workspace for a project of sweeps: what each method costs in accuracy and saves in time.

    python -m runners.dashboard project=tokensel
    python -m runners.dashboard project=tokensel entity=my-team name="Visual tokens"
    python -m runners.dashboard project=tokensel --dry-run

The workspace shows accuracy and latency over kept, a line per method; the Pareto front of accuracy over prefill time
and FLOPs; the grid as parallel coordinates; the logged pictures and predictions; and the table of runs. It needs
wandb-workspaces. Each call saves a new workspace and leaves the project's runs unchanged, and prints its address; where
standard output is no terminal, or with json=true, as one JSON object. --dry-run prints the workspace's specification
instead, without network or login.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from runners.terminal.arguments import read_arguments
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.program import start
from runners.wandb_logging.destination import NOT_LOGGED_IN, check_names, logged_in
from tokensel.errors import TokenselError

TITLE = "Visual-token reduction"
KEPT = "kept visual tokens"
# Columns of the table of runs: settings, then figures.
COLUMNS = (
    *(f"config:{key}.value" for key in ("method", "agg_layer", "temperature", "layout", "scoring")),
    *(f"summary:{key}" for key in ("kept", "n", "accuracy", "ci_low", "ci_high", "prefill_ms_p50", "speedup", "flops")),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Saves the workspace that these arguments describe (default: the command line's). Returns the exit status.

    0: saved, or printed. 1: W&B refused it or cannot be reached. 2: a mistake in the arguments, or no login.
    """
    return run_command(__doc__, argv, _run)


def workspace(project: str, entity: str = "", name: str = TITLE) -> Any:
    """The workspace, not saved. Raises TokenselError if wandb-workspaces is not installed."""
    ws, wr = _workspaces()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="Over kept visual tokens", panels=_over_kept(wr), is_open=True),
            ws.Section(name="Pareto: accuracy against cost", panels=_pareto(wr), is_open=True),
            ws.Section(name="While points are computed", panels=_progress(wr)),
            ws.Section(name="The grid", panels=[_grid(wr)], is_open=True, layout_settings=_wide(ws)),
            ws.Section(name="Pictures", panels=_pictures(wr), is_open=True, layout_settings=_wide(ws)),
            ws.Section(name="Predictions", panels=[_predictions(wr)], layout_settings=_wide(ws)),
        ],
        settings=ws.WorkspaceSettings(max_runs=500),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("State").isin(["finished", "running"])],
            order=[ws.Ordering(ws.Summary("accuracy"), ascending=False)],
            pinned_columns=["run:displayName", *COLUMNS],
        ),
    )


def _over_kept(wr: Any) -> list[Any]:
    """Plots with a line per method: the mean and range over its layers and temperatures."""
    shown = {
        "accuracy": "Accuracy",
        "prefill_ms_p50": "Latency: prefill, ms",
        "total_ms_p50": "Latency: end to end, ms",
        "speedup": "Speed-up of prefill over the full model",
    }
    return [
        wr.LinePlot(
            title=title,
            x="kept",
            y=[key],
            title_x=KEPT,
            log_x=True,
            groupby=wr.Config("method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=100,
        )
        for key, title in shown.items()
    ]


def _progress(wr: Any) -> list[Any]:
    """Plots with a line per method over the questions answered so far."""
    shown = {"accuracy": "Accuracy so far", "questions_per_second": "Questions per second"}
    return [
        wr.LinePlot(
            title=title,
            x="progress/questions",
            y=[f"progress/{key}"],
            title_x="questions answered",
            groupby=wr.Config("method"),
            max_runs_to_show=100,
        )
        for key, title in shown.items()
    ]


def _pareto(wr: Any) -> list[Any]:
    """Plots with a dot per run and the Pareto front: the best accuracy of all runs that cost no more."""
    costs = {"prefill_ms_p50": "prefill ms", "flops": "FLOPs", "kv_bytes": "KV-cache bytes"}
    return [
        wr.ScatterPlot(
            title=f"Accuracy against {title}",
            x=wr.SummaryMetric(key),
            y=wr.SummaryMetric("accuracy"),
            running_ymax=True,
            legend_template="${run:displayName}",
        )
        for key, title in costs.items()
    ]


def _grid(wr: Any) -> Any:
    settings = [wr.Config(key) for key in ("method", "agg_layer", "temperature", "aggregation", "layout")]
    figures = [wr.SummaryMetric(key) for key in ("kept", "prefill_ms_p50", "flops_ratio", "accuracy")]
    columns = [wr.ParallelCoordinatesPlotColumn(metric) for metric in (*settings, *figures)]
    return wr.ParallelCoordinatesPlot(title="Settings to accuracy", columns=columns)


def _pictures(wr: Any) -> list[Any]:
    return [
        wr.MediaBrowser(title="Accuracy over kept, with intervals", media_keys=["figures/accuracy"], num_columns=2),
        wr.MediaBrowser(
            title="The visual tokens that each method keeps",
            media_keys=["kept_tokens"],
            grid_x_axis="index",
            grid_y_axis="run",
        ),
    ]


def _predictions(wr: Any) -> Any:
    return wr.WeavePanelSummaryTable(table_name="predictions")


def _wide(ws: Any) -> Any:
    return ws.SectionLayoutSettings(columns=1, rows=2)


def _workspaces() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise TokenselError("wandb-workspaces is not installed: pip install wandb-workspaces") from error
    return ws, wr


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    flags, given = read_arguments(arguments, ("project", "entity", "name"))
    if unknown := sorted(set(flags) - {"--dry-run"}):
        raise TokenselError(f"{unknown[0]}: unknown; allowed are project=, entity=, name= and --dry-run")
    check_names(given)
    if "project" not in given:
        raise TokenselError("project: missing; name the W&B project of your sweeps, such as project=tokensel")
    made = workspace(**given)
    if flags:
        print(json.dumps(made._spec), flush=True)
        return 0
    if not logged_in():
        raise TokenselError(f"{NOT_LOGGED_IN}; --dry-run needs neither")
    try:
        line = _save(made)
    except TokenselError:
        raise
    except Exception as error:  # W&B may raise anything: no network, no permission, no such entity
        from tokensel.evaluation.provenance import scrub  # loads torch

        lines = str(error).splitlines() or [type(error).__name__]
        print(f"error: W&B could not save the workspace ({scrub(lines[0])})", file=sys.stderr)
        return 1
    print(f"Saved: {line['url']}")
    print_record(line, wanted)
    return 0


def _save(made: Any) -> dict[str, Any]:
    """Saves the workspace in its project. Raises TokenselError if there is no such project."""
    import wandb

    # By default, W&B retries an unreachable address for minutes.
    retries = {"x_graphql_retry_max": 2, "x_graphql_retry_wait_min_seconds": 0.5, "x_graphql_retry_wait_max_seconds": 2}
    wandb.setup(wandb.Settings(silent=True, **retries))
    api = wandb.Api(timeout=30)
    made.entity = made.entity or api.default_entity
    if made.project not in (project.name for project in api.projects(made.entity)):
        raise TokenselError(
            f"project={made.project}: {made.entity} has no such project; "
            f"python -m runners.sync outputs/sweep project={made.project} creates it"
        )
    made.save()
    return {"entity": made.entity, "project": made.project, "name": made.name, "url": made.url}


if __name__ == "__main__":
    start(main)
