"""Starts a run in W&B, with settings that keep it silent and bounded in time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners.wandb_logging.destination import Destination
from runners.wandb_logging.runs import Run

# Time limit in seconds for starting a run, and for finishing it.
RUN_SECONDS = 20.0
_environment = threading.RLock()


def start_run(wandb: Any, run: Run, folder: Path, destination: Destination, resume: str | None = None) -> Any:
    """Starts a run beside those that are open. Raises whatever W&B raises.

    resume: "allow" continues the history of a run with this id. Without it, such a run is replaced.
    """
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=RUN_SECONDS,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        **finish_limits(wandb),
    )
    return wandb.init(
        project=destination.project,
        entity=destination.entity,
        dir=str(folder.absolute()),
        id=run.id,
        resume=resume,
        group=run.group,
        job_type=run.job_type,
        name=run.name,
        tags=run.tags,
        config=run.config,
        mode=destination.mode,
        reinit="create_new",
        settings=settings,
    )


def finish_limits(wandb: Any) -> dict[str, Any]:
    """Settings that bound the time of finishing a run. Versions before 0.28 only know how often they try again."""
    if "finish_timeout" in wandb.Settings.model_fields:
        return {"finish_timeout": RUN_SECONDS}
    parts = ("graphql", "file_stream", "file_transfer")
    tries = {f"x_{part}_retry_max": 1 for part in parts}
    return tries | {f"x_{part}_timeout_seconds": RUN_SECONDS / 2 for part in parts}


@contextmanager
def environment_for(folder: Path) -> Iterator[None]:
    """Silences W&B on the terminal, and keeps pictures to be uploaded below `folder` instead of the user's home."""
    ours = {"WANDB_SILENT": "true", "WANDB_DATA_DIR": str(folder.absolute() / "wandb")}
    with _environment:
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
