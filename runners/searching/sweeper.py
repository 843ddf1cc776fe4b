"""Hydra's Optuna sweeper, with a launcher of ours: all trials of a batch are answered together, in this process."""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext

from runners.configuration.compose import Command, compose_jobs, compose_with_hydra, is_varied
from tokensel.errors import TokenselError

ROOT = "search"
Jobs = list[dict[str, Any]]


def check_installed() -> None:
    """Raises TokenselError that says what to install, unless Hydra's Optuna sweeper is."""
    if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise TokenselError(
            "search: needs Hydra's Optuna sweeper, which is not installed; pip install 'tokensel[search]', or "
            "hydra-optuna-sweeper"
        )


class BatchLauncher(Launcher):
    """Hands all jobs that Hydra launches together to one function, and each of its values back."""

    def __init__(self, evaluate: Callable[[Sequence[Sequence[str]]], Sequence[float]]) -> None:
        self.evaluate = evaluate

    def setup(self, **_: Any) -> None:
        """Nothing to set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        values = self.evaluate(job_overrides)
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=value)
            for overrides, value in zip(job_overrides, values, strict=True)
        ]


def propose(command: Command, conf: Path, evaluate: Callable[[Jobs], Sequence[float]]) -> None:
    """Runs the search that the configuration describes: the sweeper proposes, `evaluate` says how good each job is.

    Raises TokenselError or Hydra's own errors for a mistake in the settings.
    """

    sweeper = _sweeper([override for override in command.overrides if not is_varied(override)], conf)
    sweeper.launcher = BatchLauncher(lambda batch: evaluate([jobs_of(each, conf)[0] for each in batch]))
    sweeper.sweep(command.overrides)


def _sweeper(overrides: Sequence[str], conf: Path) -> Any:
    """The sweeper of the configuration with these overrides, as Hydra makes it."""
    with initialize_config_dir(str(conf), version_base="1.3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is older than those it uses
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        config = compose_with_hydra(overrides, ROOT)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(config))
        plugin: Any = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=lambda config: None, config=config
        )
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    return plugin.sweeper


def jobs_of(overrides: Sequence[str], conf: Path) -> Jobs:
    """The settings of the jobs with these overrides: one, or one for each of a list of methods."""
    return compose_jobs(Command(list(overrides), multirun=True), conf, ROOT)
