"""The groups of conf/, of which every job of a sweep chooses one file: a method, a model, data, a logger, workers."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from tokensel.choices import AGGREGATIONS, ATTENTIONS, DTYPES, PRECISIONS, QUANTIZATIONS
from tokensel.data.protocol import CHOICES
from tokensel.evaluation.sweep.declaration import MOST, among, names_in_key, one_of, setting

# The folders of conf/ of which every job chooses one file.
GROUPS = ("method", "model", "data", "aggregation", "logger", "workers")
LOGGERS = ("none", "wandb")
WANDB_MODES = ("online", "offline", "disabled")
WORKERS = ("none", "local", "ray", "slurm")
CLUSTERS = ("slurm", "local")
ON_OFF = ("on", "off")


class Settings(BaseModel):
    """A group of settings. Values keep their type: "8" is no integer and 1 is not true."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class _Choice(Settings):
    """A file of a group of conf/: its name, and the options of that file."""

    model_config = ConfigDict(extra="allow")

    name: str = setting(..., "of the choice", "must be the name of a file in conf/")

    @property
    def options(self) -> dict[str, Any]:
        """Everything in the file beside its name."""
        return dict(self.model_extra or {})


class MethodSettings(_Choice):
    """A method and its options. file: FILE.py:CLASS of a user's method."""

    file: str | None = None
    precision: Annotated[str, among(PRECISIONS)] = setting(
        "float32", "in which it computes; model: in the model's own, as official code does", one_of(PRECISIONS)
    )


class AggregationSettings(Settings):
    """What the survivors carry: a file of conf/aggregation, or in Python just its name; null is the method's own."""

    name: Annotated[str | None, among(AGGREGATIONS)] = setting(
        None, "what the survivors carry", f"null or {one_of(AGGREGATIONS).removeprefix('choose ')}", "point", True
    )
    path: str | None = setting(
        None,
        "of learned: what runners.train_aggregator wrote; null: the embedded model's own. Others ignore it in a grid",
        "must be FILE.safetensors, or null",
        "point",
        True,
        min_length=1,
    )


class DataSettings(_Choice):
    """A data set and the options of its load function."""


class LoggerSettings(Settings):
    """Where results are logged besides the files; none has no options."""

    name: Annotated[str, among(LOGGERS)] = setting("none", "the logger", one_of(LOGGERS))
    project: str | None = setting(None, "in W&B", "must be a name")
    entity: str | None = setting(None, "in W&B", "must be a name, or null")
    mode: Annotated[str | None, among(WANDB_MODES)] = setting(
        None, "null: online if logged in, else offline", f"null or one of {', '.join(WANDB_MODES)}"
    )
    pictures: int = setting(
        4, "questions of a point that are logged with a picture", "must be an integer from 0", ge=0, le=MOST
    )

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return self.model_dump(exclude={"name"})


class ModelSettings(Settings):
    """A checkpoint and how it is loaded, see `tokensel.models.load_model`; null takes that function's default."""

    path: str = setting(
        "tiny", "checkpoint", "must be a folder, a hub id, tiny, or random:SHAPE", "group", min_length=1
    )
    dtype: Annotated[str | None, among(DTYPES)] = setting(
        "float32", "of weights and activations", one_of(DTYPES), "group", True
    )
    device: str | None = setting(
        "auto",
        "where it runs",
        "must be auto, cpu, cuda or cuda:INDEX",
        "group",
        pattern=r"^(auto|cpu|cuda(:\d{1,4})?)$",
    )
    device_map: Annotated[str | None, among(("auto",))] = setting(
        None, "auto spreads the weights over all GPUs", "must be auto or null", "group"
    )
    attn_implementation: Annotated[str | None, among(ATTENTIONS)] = setting(
        "sdpa", "attention kernel", one_of(ATTENTIONS), "group", True
    )
    revision: str | None = setting(
        None, "of a hub checkpoint", "must be a branch, tag or commit, or null", "group", min_length=1
    )
    trust_remote_code: bool = setting(False, "runs code of the checkpoint", "must be true or false", "group")
    quantization: Annotated[str | None, among(QUANTIZATIONS)] = setting(
        None, "of the weights, on a GPU", f"must be null or one of {', '.join(QUANTIZATIONS)}", "group", True
    )
    vision_tower: str | None = setting(
        None,
        "CLIP tower of a checkpoint in the original layout",
        "must be a folder or hub id, or null",
        "group",
        True,
        min_length=1,
    )
    family: str | None = setting(
        None,
        "tested family that a checkpoint of another one is like",
        "must be the name of a tested family, or null",
        "group",
        True,
        min_length=1,
    )
    conv: Annotated[str, among(CHOICES["conv"])] = setting(
        "model", "the checkpoint's own conv", one_of(CHOICES["conv"]), "group"
    )
    image_aspect: Annotated[str, among(CHOICES["image_aspect"])] = setting(
        "pad", "the checkpoint's own image_aspect", one_of(CHOICES["image_aspect"]), "group"
    )

    def load_arguments(self) -> dict[str, Any]:
        """The arguments of `load_model`."""
        return self.model_dump(exclude={"conv", "image_aspect"}, exclude_none=True)

    def in_key(self) -> dict[str, Any]:
        """The settings that can change a prediction; the weights themselves are identified by the revision."""
        return {name: getattr(self, name) for name in names_in_key(type(self))}


class WorkersSettings(Settings):
    """Which processes answer the questions, see `tokensel.evaluation.workers`; none: this one.

    No part of a point's key: the answers are the same.
    """

    name: Annotated[str, among(WORKERS)] = setting("none", "which workers", one_of(WORKERS))
    count: int | None = setting(
        None,
        "how many; null: one for each GPU that there is, else 2",
        "must be an integer from 1 to 10000, or null",
        ge=1,
        le=10_000,
    )
    gpus_per_worker: int | None = setting(
        None,
        "several for model.device_map=auto; null: 1 where there are GPUs",
        "must be an integer from 0 to 64, or null",
        ge=0,
        le=64,
    )
    cpus_per_worker: int | None = setting(
        None,
        "threads of each; null: an equal share of this machine's, and 1 elsewhere",
        "must be an integer from 1, or null",
        ge=1,
        le=MOST,
    )
    latency: Annotated[str, among(ON_OFF)] = setting(
        "on", "whether times are taken, on one worker alone", one_of(ON_OFF)
    )
    address: str | None = setting(
        None,
        "of a Ray cluster",
        "must be HOST:PORT, auto for the cluster of this machine, or null to start one here",
        min_length=1,
    )
    cluster: Annotated[str, among(CLUSTERS)] = setting(
        "slurm", "local runs the same jobs without Slurm", one_of(CLUSTERS)
    )
    minutes: int = setting(240, "of a Slurm job, at most", "must be an integer from 1", ge=1, le=MOST)
    memory_gb: int | None = setting(None, "of a Slurm job", "must be an integer from 1, or null", ge=1, le=MOST)
    partition: str | None = setting(None, "of Slurm", "must be a name, or null", min_length=1)
    account: str | None = setting(None, "of Slurm", "must be a name, or null", min_length=1)
    more: dict[str, str | int | float | bool] = setting(
        {}, "other options of sbatch, as {qos: high}", "must be a group of names and values"
    )

    @property
    def takes_times(self) -> bool:
        """Whether times are taken at all."""
        return self.latency == "on" or self.name == "none"
