"""The settings of a sweep: one typed declaration, from which the checks, `--help` and a point's key are made.

`tokensel.evaluation.sweep.reading` makes and checks them. conf/sweep.yaml has the same keys and defaults. The groups of
conf/, of which a job chooses one file each, are declared in `tokensel.evaluation.sweep.groups`.
"""

import os
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from tokensel.choices import (
    AGGREGATIONS,
    BAD_SAMPLE_POLICIES,
    LARGEST_TEMPERATURE,
    LAYOUTS,
    LEAST_TEMPERATURE,
    POSITIONS,
    SCOPES,
    SCORINGS,
)
from tokensel.data.protocol import CHOICES, Protocol
from tokensel.evaluation.sweep.budget import ALLOWED
from tokensel.evaluation.sweep.declaration import (
    MOST,
    among,
    checked_budget,
    checked_kept,
    folder_name,
    one_of,
    setting,
)
from tokensel.evaluation.sweep.groups import (
    AggregationSettings,
    DataSettings,
    LoggerSettings,
    MethodSettings,
    ModelSettings,
    Settings,
    WorkersSettings,
)

# The kept of a sweep that sets neither kept nor budget.
USUAL_KEPT = 64


class LatencySettings(Settings):
    """How times are taken: at batch 1 on one question, each point in turn with the full model."""

    repeats: int = setting(5, "timed runs of each point; 0 skips timing", "must be an integer from 0", ge=0, le=MOST)
    warmup: int = setting(1, "runs before them that do not count", "must be an integer from 0", ge=0, le=MOST)
    decode_tokens: int = setting(4, "tokens decoded after the first", "must be an integer from 1", ge=1, le=MOST)


_Integer = Annotated[int, Field(le=MOST)]
_Kept = Annotated[_Integer | float | str, AfterValidator(checked_kept)]
_Layer = Annotated[int, Field(ge=0, le=MOST)]
_Temperature = Annotated[float | int, Field(ge=LEAST_TEMPERATURE, le=LARGEST_TEMPERATURE)]


class SweepSettings(Settings):
    """The settings of one job of a sweep, checked.

    Raises pydantic's ValidationError; `read_settings` turns it into a TokenselError.
    """

    # Ignored: plain keys such as path and image_folder, which a data set's file adds and its options refer to.
    model_config = ConfigDict(extra="ignore")

    name: Annotated[str | int, AfterValidator(folder_name)] = setting(
        "sweep",
        "folder below output_dir, and group in W&B",
        "must be text that can name a folder: in one line, without /, at most 200 bytes; quote numbers, true and false",
    )
    output_dir: Annotated[str, AfterValidator(os.path.expanduser)] = setting(
        "outputs", "where results go", "must be a folder", min_length=1
    )

    kept: _Kept | Annotated[list[_Kept], Field(min_length=1)] | None = setting(
        None,
        "visual tokens that remain (M); null: 64, or what budget asks for",
        'must be an integer from 0, a share above 0% and below 100% ("25%" or 0.25), auto (as many as cover the '
        "picture; auto:0.9:4-64 says how much, and from how many to how many), or a list of these, one per stage: "
        "kept=[..]; or null, and beside a budget only null",
        "point",
        True,
    )
    budget: Annotated[str | None, AfterValidator(checked_budget)] = setting(
        None,
        "instead of kept, which is then solved: visual tokens per layer, or a share of the full model's FLOPs",
        f"{ALLOWED}; or null",
        "point",
    )
    agg_layer: _Layer | Annotated[list[_Layer], Field(min_length=1)] | None = setting(
        None,
        "reduction happens before this decoder layer, 0-based; null: where the method's paper has it",
        "must be an integer from 0, or a list of them, one per stage: agg_layer=[..]; or null for each method's own",
        "point",
        True,
    )
    temperature: _Temperature = setting(
        0.1, "of cross-attention", "must be a finite number above 0 that float32 can hold", "point", True
    )
    aggregation: AggregationSettings = setting(
        AggregationSettings(),
        "what the survivors carry; null: the method's own",
        f"null or one of {', '.join(AGGREGATIONS)}",
        "point",
        True,
    )
    layout: Annotated[str, among(LAYOUTS)] = setting(
        "compact", "the sequence after a reduction; only compact saves time", one_of(LAYOUTS), "point", True
    )
    position: Annotated[str | None, among(POSITIONS)] = setting(
        None,
        "position ids of the survivors; null: the method's own",
        f"null or one of {', '.join(POSITIONS)}",
        "point",
        True,
    )
    scope: Annotated[str, among(SCOPES)] = setting(
        "video", "a video's frames are reduced together, or each by itself", one_of(SCOPES), "point", True
    )
    seed: int = setting(
        0, "of methods that choose at random", "must be an integer from 0 to 2147483647", "point", True, ge=0, le=MOST
    )

    limit: int | None = setting(
        200,
        "questions, a fixed random part of the data set; raising it adds to them",
        "must be an integer from 1, or null for all questions",
        "group",
        ge=1,
        le=MOST,
    )
    scoring: Annotated[str, among(SCORINGS)] = setting(
        "letter",
        "of questions with choices; letter: their letters' logits; generate: an answer is written and read",
        one_of(SCORINGS),
        "group",
        True,
    )
    prompt: Annotated[str, among(CHOICES["prompt"])] = setting(
        "llava", "whose wording of the question", one_of(CHOICES["prompt"]), "group", True
    )
    conv: Annotated[str | None, among(CHOICES["conv"])] = setting(
        None, "conversation template; null: the model's own", one_of(CHOICES["conv"]), "group", True
    )
    image_aspect: Annotated[str | None, among(CHOICES["image_aspect"])] = setting(
        None,
        "pad to a square, or leave it to the processor; null: the model's own",
        one_of(CHOICES["image_aspect"]),
        "group",
        True,
    )
    reading: Annotated[str, among(CHOICES["reading"])] = setting(
        "llava", "whose reading of a written answer", one_of(CHOICES["reading"]), "group", True
    )
    on_bad_sample: Annotated[str, among(BAD_SAMPLE_POLICIES)] = setting(
        "error", "for a picture that is missing or truncated", one_of(BAD_SAMPLE_POLICIES)
    )
    batch_size: int = setting(
        8, "changes time and memory, never a prediction", "must be an integer from 1", ge=1, le=MOST
    )
    compile: bool = setting(False, "compiled graphs, for GPUs and long sweeps", "must be true or false")

    check_ties: bool = setting(
        True, "stores with each answer whether its choice of tokens hangs on a tie", "must be true or false"
    )

    fresh: bool = setting(
        False, "deletes what is stored of this command's points, and computes them anew", "must be true or false"
    )
    controls: list[str] = setting(
        ["full", "no_image", "fastv", "random"],
        "points that are added to every grid",
        "must be a list of methods; or []",
    )
    control_seeds: int | None = setting(
        None,
        "of controls that draw at random, only the first of them timed; null: 3, or 1 where 3 would slow a small grid",
        "must be an integer from 1 to 100, or null",
        ge=1,
        le=100,
    )
    latency: LatencySettings = LatencySettings()

    method: MethodSettings
    model: ModelSettings
    data: DataSettings
    logger: LoggerSettings
    workers: WorkersSettings = WorkersSettings()

    def protocol(self) -> Protocol:
        """The protocol: these settings where they are given, else the model's own."""
        names = ("prompt", "conv", "image_aspect", "reading")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return Protocol(**{"conv": self.model.conv, "image_aspect": self.model.image_aspect} | given)

    def latency_protocol(self) -> dict[str, Any]:
        """How times are taken, as metrics.json states it. Times that were taken in another way are taken again."""
        latency = self.latency.model_dump() | ({"repeats": 0} if not self.workers.takes_times else {})
        return latency | ({"compiled": True} if self.compile else {})
