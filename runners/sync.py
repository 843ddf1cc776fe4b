"""Pushes a finished sweep's results to W&B, reading only its folders; nothing is computed again.

    python -m runners.sync outputs/sweep
    python -m runners.sync outputs/sweep project=tokensel entity=my-team
    WANDB_MODE=offline python -m runners.sync outputs/sweep

    project   default: the project that the sweep was logged to, else that of conf/logger/wandb.yaml
    entity    default: that of conf/logger/wandb.yaml

A run's id is derived from its point's key and the project, so a second push replaces the runs instead of duplicating
them. A folder of several sweeps, such as the trials of a W&B agent, is pushed as one group without a run of its own.
Where standard output is no terminal, or with json=true, its last line is one JSON object with the ids of the runs.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runners.terminal.arguments import read_arguments
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_folder
from runners.terminal.program import importing, start
from runners.wandb_logging.destination import NOT_LOGGED_IN, check_names, logged_in
from tokensel.errors import TokenselError

_LOGGER = Path(__file__).resolve().parent.parent / "conf" / "logger" / "wandb.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Pushes the folder that these arguments name (default: the command line's). Returns the exit status.

    0: everything was pushed. 1: W&B failed, and a message says what is missing. 2: a mistake in the arguments or the
    folder.
    """
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    folders, given = read_arguments(arguments, ("project", "entity"))
    check_names(given)
    if len(folders) != 1:
        raise TokenselError(f"{' '.join(folders) or 'no folder'}: give one sweep's folder, such as outputs/sweep")
    folder = Path(folders[0])
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode == "disabled":
        raise TokenselError("WANDB_MODE=disabled: nothing can be pushed; unset it, or choose online or offline")
    if mode == "online" and not logged_in():
        raise TokenselError(f"{NOT_LOGGED_IN}; or WANDB_MODE=offline writes files that `wandb sync` pushes later")
    if folder.is_dir():
        check_folder(folder, "folder")  # W&B writes its files there before it sends them
    with importing():  # slow, and not needed to report the mistakes above
        from omegaconf import OmegaConf

        from runners.wandb_logging.logger import log_sweep
        from runners.wandb_logging.runs import project_of
        from runners.wandb_logging.stored import stored_points, unfinished_points

    points = stored_points(folder)
    options: Any = OmegaConf.to_container(OmegaConf.load(_LOGGER))
    options |= {"project": project_of(points) or options["project"], "mode": mode} | given
    pushed = log_sweep(points, folder, options, folder.resolve().name, again=True)
    unfinished = unfinished_points(folder)
    if unfinished:
        count = f"{len(unfinished)} point{'s' * (len(unfinished) != 1)}"
        print(f"note: {count} without figures left out; start the sweep again", file=sys.stderr)
    if mode == "offline":
        print(f"note: offline; `wandb sync {folder / 'wandb'}/offline-run-*` pushes them", file=sys.stderr)
    line = {name: options[name] for name in ("project", "entity", "mode")}
    line = {"sweep": folder.resolve().name, **line, "runs": pushed, "unfinished": unfinished}
    print_record(line, wanted)
    return 0 if len(pushed) >= len(points) else 1


if __name__ == "__main__":
    start(main)
