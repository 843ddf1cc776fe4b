"""The settings of a sweep: one typed declaration, from which the checks, `--help` and a point's key are made.

`tokensel.evaluation.sweep.reading` makes and checks them. conf/sweep.yaml has the same keys and defaults.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tokensel.data.protocol import CHOICES, Protocol
from tokensel.engine.kept import read_kept
from tokensel.engine.stages import AGGREGATIONS, LAYOUTS, POSITIONS
from tokensel.errors import TokenselError
from tokensel.evaluation.accuracy import BAD_SAMPLE_POLICIES, SCORINGS
from tokensel.models.loading import DTYPES, QUANTIZATIONS

# The folders of conf/ of which every job chooses one file.
GROUPS = ("method", "model", "data", "logger")
LOGGERS = ("none", "wandb")
WANDB_MODES = ("online", "offline", "disabled")
# The largest integer that everything downstream can hold.
MOST = 2**31 - 1
# Who a setting belongs to. point: one grid point. group: the points that share a model, questions and scoring. Both may
# differ between the jobs of a grid. sweep: one value for all of them.
Scope = Literal["point", "group", "sweep"]


def _setting(
    default: Any, meaning: str, allowed: str, scope: Scope = "sweep", in_key: bool = False, **limits: Any
) -> Any:
    """Declares a setting.

    meaning: for `--help`. allowed: its values in words, for `--help` and errors. in_key: whether it can change a
    prediction, and so is part of the point's key. limits: pydantic's, such as ge=1.
    """
    return Field(
        default, description=meaning, json_schema_extra={"allowed": allowed, "scope": scope, "in_key": in_key}, **limits
    )


def _one_of(choices: tuple[str, ...]) -> str:
    return f"choose one of {', '.join(choices)}"


def _in(choices: tuple[str, ...]) -> AfterValidator:
    def check(value: Any) -> Any:
        if value is not None and value not in choices:
            raise ValueError(value)
        return value

    return AfterValidator(check)


def _folder_name(value: str | int) -> str:
    if not str(value).strip(".") or "/" in str(value):
        raise ValueError(value)
    return str(value)


class _Settings(BaseModel):
    """A group of settings. Values keep their type: "8" is no integer and 1 is not true."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class _Choice(_Settings):
    """A file of a group of conf/: its name, and the options of that file."""

    model_config = ConfigDict(extra="allow")

    name: str = _setting(..., "of the choice", "must be the name of a file in conf/")

    @property
    def options(self) -> dict[str, Any]:
        """Everything in the file beside its name."""
        return dict(self.model_extra or {})


class MethodSettings(_Choice):
    """A method and its options. file: FILE.py:CLASS of a user's method."""

    file: str | None = None


class DataSettings(_Choice):
    """A data set and the options of its load function."""


class LoggerSettings(_Settings):
    """Where results are logged besides the files; none has no options."""

    name: Annotated[str, _in(LOGGERS)] = _setting("none", "the logger", _one_of(LOGGERS))
    project: str | None = _setting(None, "in W&B", "must be a name")
    entity: str | None = _setting(None, "in W&B", "must be a name, or null")
    mode: Annotated[str | None, _in(WANDB_MODES)] = _setting(
        None, "null: online if logged in, else offline", f"null or one of {', '.join(WANDB_MODES)}"
    )
    pictures: int = _setting(
        4, "questions of a point that are logged with a picture", "must be an integer from 0", ge=0, le=MOST
    )

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return self.model_dump(exclude={"name"})


class ModelSettings(_Settings):
    """A checkpoint and how it is loaded, see `tokensel.models.load_model`; null takes that function's default."""

    path: str = _setting("tiny", "checkpoint", "a folder, a hub id, tiny, or random:SHAPE", "group")
    dtype: Annotated[str | None, _in(DTYPES)] = _setting(
        "float32", "of weights and activations", _one_of(DTYPES), "group", True
    )
    device: str | None = _setting("auto", "where it runs", "auto, cpu, cuda or cuda:INDEX", "group")
    device_map: Annotated[str | None, _in(("auto",))] = _setting(
        None, "auto spreads the weights over all GPUs", "must be auto or null", "group"
    )
    attn_implementation: str | None = _setting(
        "sdpa", "attention kernel", "sdpa, eager or flash_attention_2", "group", True
    )
    revision: str | None = _setting(None, "of a hub checkpoint", "a branch, tag or commit", "group")
    trust_remote_code: bool | None = _setting(False, "runs code of the checkpoint", "must be true or false", "group")
    quantization: Annotated[str | None, _in(QUANTIZATIONS)] = _setting(
        None, "of the weights, on a GPU", f"must be null or one of {', '.join(QUANTIZATIONS)}", "group", True
    )
    vision_tower: str | None = _setting(
        None, "CLIP tower of a checkpoint in the original layout", "a folder or hub id", "group", True
    )
    conv: Annotated[str, _in(CHOICES["conv"])] = _setting(
        "model", "the checkpoint's own conv", _one_of(CHOICES["conv"]), "group"
    )
    image_aspect: Annotated[str, _in(CHOICES["image_aspect"])] = _setting(
        "pad", "the checkpoint's own image_aspect", _one_of(CHOICES["image_aspect"]), "group"
    )

    def load_arguments(self) -> dict[str, Any]:
        """The arguments of `load_model`."""
        return self.model_dump(exclude={"conv", "image_aspect"}, exclude_none=True)

    def in_key(self) -> dict[str, Any]:
        """The settings that can change a prediction; the weights themselves are identified by the revision."""
        return {name: getattr(self, name) for name in _names_in_key(type(self))}


class LatencySettings(_Settings):
    """How times are taken: at batch 1 on one question, each point in turn with the full model."""

    repeats: int = _setting(5, "timed runs of each point; 0 skips timing", "must be an integer from 0", ge=0, le=MOST)
    warmup: int = _setting(1, "runs before them that do not count", "must be an integer from 0", ge=0, le=MOST)
    decode_tokens: int = _setting(4, "tokens decoded after the first", "must be an integer from 1", ge=1, le=MOST)


def _kept(value: int | float | str) -> int | float | str:
    try:
        read_kept(value)
    except TokenselError as error:
        raise ValueError(value) from error
    return value


_Integer = Annotated[int, Field(le=MOST)]
_Kept = Annotated[_Integer | float | str, AfterValidator(_kept)]


class SweepSettings(_Settings):
    """The settings of one job of a sweep, checked.

    Raises pydantic's ValidationError; `read_settings` turns it into a TokenselError.
    """

    # Ignored: plain keys such as path and image_folder, which a data set's file adds and its options refer to.
    model_config = ConfigDict(extra="ignore")

    name: Annotated[str | int, AfterValidator(_folder_name)] = _setting(
        "sweep", "folder below output_dir, and group in W&B", "must be a folder name without /"
    )
    output_dir: str = _setting("outputs", "where results go", "must be a folder", min_length=1)

    kept: _Kept | list[_Kept] = _setting(
        64,
        "visual tokens that remain (M)",
        'must be an integer, a share above 0% and below 100% ("25%" or 0.25), or a list of these, one per stage: '
        "kept=[..]",
        "point",
        True,
    )
    agg_layer: _Integer | list[_Integer] | None = _setting(
        None,
        "reduction happens before this decoder layer, 0-based; null: where the method's paper has it",
        "must be an integer, or a list of them, one per stage: agg_layer=[..]; or null for each method's own",
        "point",
        True,
    )
    temperature: float | int = _setting(0.1, "of cross-attention", "must be a number above 0", "point", True)
    aggregation: str | None = _setting(
        None,
        "what the survivors carry; null: the method's own",
        f"null or one of {', '.join(AGGREGATIONS)}",
        "point",
        True,
    )
    layout: str = _setting(
        "compact", "the sequence after a reduction; only compact saves time", _one_of(LAYOUTS), "point", True
    )
    position: str | None = _setting(
        None,
        "position ids of the survivors; null: the method's own",
        f"null or one of {', '.join(POSITIONS)}",
        "point",
        True,
    )
    seed: int = _setting(
        0, "of methods that choose at random", "must be an integer from 0 to 2147483647", "point", True, ge=0, le=MOST
    )

    limit: int | None = _setting(
        200,
        "questions, a fixed random part of the data set; raising it adds to them",
        "must be an integer from 1, or null for all questions",
        "group",
        ge=1,
        le=MOST,
    )
    scoring: Annotated[str, _in(SCORINGS)] = _setting(
        "letter",
        "letter: the option letters' logits; generate: an answer is written and read",
        _one_of(SCORINGS),
        "group",
        True,
    )
    prompt: Annotated[str, _in(CHOICES["prompt"])] = _setting(
        "llava", "whose wording of the question", _one_of(CHOICES["prompt"]), "group", True
    )
    conv: Annotated[str | None, _in(CHOICES["conv"])] = _setting(
        None, "conversation template; null: the model's own", _one_of(CHOICES["conv"]), "group", True
    )
    image_aspect: Annotated[str | None, _in(CHOICES["image_aspect"])] = _setting(
        None,
        "pad to a square, or leave it to the processor; null: the model's own",
        _one_of(CHOICES["image_aspect"]),
        "group",
        True,
    )
    reading: Annotated[str, _in(CHOICES["reading"])] = _setting(
        "llava", "whose reading of a written answer", _one_of(CHOICES["reading"]), "group", True
    )
    on_bad_sample: Annotated[str, _in(BAD_SAMPLE_POLICIES)] = _setting(
        "error", "for a picture that is missing or truncated", _one_of(BAD_SAMPLE_POLICIES)
    )
    batch_size: int = _setting(
        8, "changes time and memory, never a prediction", "must be an integer from 1", ge=1, le=MOST
    )
    compile: bool = _setting(False, "compiled graphs, for GPUs and long sweeps", "must be true or false")

    controls: list[str] = _setting(
        ["full", "no_image", "fastv", "random"],
        "points that are added to every grid",
        "must be a list of methods; or []",
    )
    latency: LatencySettings = LatencySettings()

    method: MethodSettings
    model: ModelSettings
    data: DataSettings
    logger: LoggerSettings

    def protocol(self) -> Protocol:
        """The protocol: these settings where they are given, else the model's own."""
        names = ("prompt", "conv", "image_aspect", "reading")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return Protocol(**{"conv": self.model.conv, "image_aspect": self.model.image_aspect} | given)

    def latency_protocol(self) -> dict[str, Any]:
        """How times are taken, as metrics.json states it. Times that were taken in another way are taken again."""
        return self.latency.model_dump() | ({"compiled": True} if self.compile else {})


def _names_in_key(kind: type[BaseModel]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if declaration(field).get("in_key")]


def declaration(field: Any) -> dict[str, Any]:
    """What `_setting` declared of a field: allowed, scope, in_key."""
    return field.json_schema_extra or {}
