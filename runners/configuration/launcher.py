"""The Hydra launcher that evaluates a whole grid in one pass, instead of one process or one model per job, and the
sweeper that goes with it."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class OnePassLauncher(Launcher):
    """Composes every job's config and hands all of them to the task in a single call, as a list."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configs: list[Any] = []
        for index, overrides in enumerate(job_overrides, start=initial_job_idx):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = index
            configs.append(config)
        value = self.task(configs)
        jobs = []
        for overrides, config in zip(job_overrides, configs, strict=True):
            job = JobReturn(
                overrides=filter_overrides(overrides), cfg=config, working_dir=".", status=JobStatus.COMPLETED
            )
            job.return_value = value
            jobs.append(job)
        return jobs


def register() -> None:
    """Makes both known to Hydra without a hydra_plugins folder, which every Hydra app would then find.

    Hydra takes a plugin only if it can import it from a package of that name, so one is made in memory.
    """
    plugins = Plugins.instance()  # looks for installed plugins first, and makes Hydra's own classes anew
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    class OnePassSweeper(BasicSweeper):
        """Hydra's own, but for composing every job's config an extra time where the launcher does it right away."""

        def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
            if not isinstance(self.launcher, OnePassLauncher):
                super().validate_batch_is_legal(batch)

    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    module = ModuleType("hydra_plugins.tokensel")
    vars(package)["tokensel"] = sys.modules[module.__name__] = module
    for plugin in (OnePassLauncher, OnePassSweeper):
        plugin.__module__, plugin.__qualname__ = module.__name__, plugin.__name__
        vars(module)[plugin.__name__] = plugin
        plugins.register(plugin)
