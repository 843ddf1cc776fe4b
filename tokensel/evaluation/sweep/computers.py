"""Chooses what answers a sweep's questions: this process, or workers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.by_workers import ByWorkers
from tokensel.evaluation.sweep.compute import Computer, Progress
from tokensel.evaluation.sweep.groups import WorkersSettings
from tokensel.evaluation.sweep.here import Here
from tokensel.evaluation.sweep.plan import SweepPlan
from tokensel.evaluation.sweep.work import GroupWork
from tokensel.evaluation.workers.crew import Crew

# Workers without a GPU, where nobody says how many.
USUAL_COUNT = 2


@contextmanager
def computers(plan: SweepPlan, folder: Path, log: Path) -> Iterator[Callable[[GroupWork, Progress], Computer]]:
    """Inside the block, makes the Computer of each group; workers end with the block.

    folder: the sweep's. log: this start's; those of workers lie beside it. Raises TokenselError for workers that cannot
    be had.
    """
    settings = plan.settings.workers
    if settings.name == "none":
        yield lambda work, progress: Here(work, plan, progress)
        return
    models = [group.model.device for group in plan.groups]
    crew = _crew(settings, folder, log.absolute(), on_cpu=all(device == "cpu" for device in models))
    # Alone at the end, a worker on this machine has all its threads.
    threads = _threads() if settings.name == "local" else None
    try:
        yield lambda work, progress: ByWorkers(work, plan, progress, crew, threads)
        crew.clear()
    finally:
        crew.close()


def _crew(settings: WorkersSettings, folder: Path, log: Path, on_cpu: bool) -> Crew:
    if settings.name == "ray":
        from tokensel.evaluation.workers.ray_actors import RayCrew

        return RayCrew(settings.count, log, settings.address, settings.cpus_per_worker or 1, settings.gpus_per_worker)
    if settings.name == "slurm":
        from tokensel.evaluation.workers.slurm_jobs import SlurmCrew

        count = settings.count or USUAL_COUNT
        jobs = log.with_name(f"{log.stem}_jobs")
        return SlurmCrew(count, folder.absolute(), jobs, settings.cluster, _job_parameters(settings, on_cpu))
    from tokensel.evaluation.workers.local import LocalCrew, visible_gpus

    gpus = None if on_cpu else visible_gpus(1 if settings.gpus_per_worker is None else settings.gpus_per_worker)
    if gpus and settings.count is not None and settings.count > len(gpus):
        raise TokenselError(f"workers.count={settings.count}: there are GPUs for {len(gpus)} workers")
    count = settings.count or (len(gpus) if gpus else USUAL_COUNT)
    return LocalCrew(count, log, settings.cpus_per_worker or max(1, _threads() // count), gpus)


def _job_parameters(settings: WorkersSettings, on_cpu: bool) -> dict[str, Any]:
    """The settings in submitit's words."""
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = 0 if on_cpu or settings.cluster == "local" else 1
    found: dict[str, Any] = {"timeout_min": settings.minutes, "cpus_per_task": settings.cpus_per_worker or 1}
    found |= {"gpus_per_node": gpus, "mem_gb": settings.memory_gb}
    if settings.cluster == "slurm":
        found |= {"slurm_partition": settings.partition, "slurm_account": settings.account}
        found["slurm_additional_parameters"] = settings.more or None
    return {name: value for name, value in found.items() if value is not None}


def _threads() -> int:
    import torch

    return torch.get_num_threads()
