"""Fills in what grid points lack: predictions in one pass, then times and costs, then metrics.json."""

import json
import sys
import warnings
from functools import lru_cache
from typing import Any

import torch

from tokensel.evaluation.sweep.plan import Plan
from tokensel.evaluation.sweep.work import GroupWork, PointWork
from runners.terminal.progress import SweepProgress
from tokensel.data import Question
from tokensel.errors import BadSampleError
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.batches import order_questions
from tokensel.evaluation.flops import prefill_cost
from tokensel.evaluation.keys import ids_digest
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.provenance import provenance
from tokensel.models import LoadedModel, load_model

# So many questions have their kept tokens stored at every point, for pictures of them.
POSITION_SAMPLE = 8
# So many points share each run of the full model that they are timed beside: it is never further away than these take.
TIMED_TOGETHER = 20
TIMED = (
    "select_ms",
    "vision_ms",
    "prefill_ms",
    "decode_ms",
    "total_ms",
    "speedup",
    "speedup_total",
    "peak_memory_bytes",
)


@lru_cache(maxsize=1)  # jobs that a launcher starts one by one in this process share it
def _model(settings: str) -> LoadedModel:
    # null stands for load_model's own default.
    return load_model(**{key: value for key, value in json.loads(settings).items() if value is not None})


def lacking(work: GroupWork, plan: Plan) -> list[PointWork]:
    """The points that lack predictions or figures."""
    latency = plan.shared["latency"]
    return [point for point in work.points.values() if point.missing or not point.has_figures(latency)]


def compute(work: GroupWork, plan: Plan, progress: SweepProgress) -> None:
    """Computes what a group lacks. A point that fails is marked with its error; the others are complete
    afterwards.

    Raises TokenselError if the model cannot be loaded, or for a bad sample under on_bad_sample=error.
    """
    points = []
    for point in lacking(work, plan):
        if point.metrics is not None and not point.missing and not point.needs_timing(plan.shared["latency"]):
            _restate(point)  # another choice of the same predictions: no model is needed for that
            progress.finished_point(timed=False)
        else:
            points.append(point)
    if not points:
        return
    loaded = _model(json.dumps(work.group.model, sort_keys=True)).with_protocol(work.group.protocol)
    for point in points:
        point.store.write_config(point.settings)
        point.store.done_ids()  # cuts off what a kill left half written, also where no prediction is missing
    # One pass for each set of questions: all points of a grid have the same one.
    for digest in dict.fromkeys(ids_digest(point.asked) for point in points):
        same = [point for point in points if ids_digest(point.asked) == digest]
        _predict(loaded, same, work, plan, progress)
    meter = _Meter(loaded, plan, points[0].asked)
    for begin in range(0, len(points), TIMED_TOGETHER):
        several = points[begin : begin + TIMED_TOGETHER]
        waiting = [point for point in several if point.needs_timing(plan.shared["latency"])]
        times = meter.times([point for point in waiting if not point.error])
        for point in several:
            timed = point in waiting
            if not point.error:
                try:
                    _write_metrics(point, meter, plan, times.get(point.key))
                except Exception as error:  # a point that only fails at batch 1, or with a cache
                    point.fail(describe(error))
            progress.finished_point(timed)


def describe(error: Exception) -> str:
    """One line: the error's type and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _predict(
    loaded: LoadedModel, points: list[PointWork], work: GroupWork, plan: Plan, progress: SweepProgress
) -> None:
    points = [point for point in points if point.missing]
    if not points:
        return
    asked = points[0].asked
    with warnings.catch_warnings():
        # Said once already, before the model was loaded.
        warnings.filterwarnings("ignore", message="kept=.*nothing is removed")
        failures = evaluate(
            loaded,
            asked,
            [point.point for point in points],
            [point.store for point in points],
            batch_size=plan.shared["batch_size"],
            scoring=work.group.scoring,
            on_bad_sample=plan.shared["on_bad_sample"],
            progress=progress.predicted_rows,
            keep_positions={question.id for question in asked[:POSITION_SAMPLE]},
            compiled=plan.shared["compile"],
        )
    for index, error in failures.items():
        points[index].fail(describe(error))


class _Meter:
    """Times and costs of one prompt of middling length, the same for all points."""

    def __init__(self, loaded: LoadedModel, plan: Plan, asked: list[Question]) -> None:
        self.loaded, self.latency = loaded, plan.shared["latency"]
        question = _middle(asked)
        self.meter: LatencyMeter | None = None
        self.text_tokens = self.visual_tokens = 0
        self.pictures: dict[str, torch.Tensor] = {}
        if question is None:
            return
        encoded = loaded.encode([question])
        ids, self.pictures = encoded.input_ids, encoded.pictures
        self.visual_tokens = int((ids == loaded.processor.image_token_id).sum())
        self.text_tokens = ids.shape[1] - self.visual_tokens
        if self.latency["repeats"]:
            self.meter = LatencyMeter(loaded, question, **self.latency)

    @property
    def not_compiled(self) -> dict[str, str]:
        """What compile=true could not compile, and why."""
        return {} if self.meter is None else self.meter.not_compiled

    def times(self, points: list[PointWork]) -> dict[str, dict[str, Any] | Exception]:
        """Of each point, by key: its times, or what it raised. Nothing where times are not wanted."""
        if self.meter is None or not points:
            return {}
        found = self.meter.measure_together([point.point for point in points])
        return dict(zip((point.key for point in points), found, strict=True))

    def costs(self, point: PointWork) -> dict[str, Any]:
        """flops, flops_ratio (to the full model), flops_parts, kv_bytes, tokens_layer_mean; selection_counted: whether
        choosing is among them."""
        config = self.loaded.model.config
        sizes: dict[str, Any] = {"text_tokens": self.text_tokens, "visual_tokens": self.visual_tokens}
        sizes["bytes_per_value"] = torch.finfo(self.loaded.model.dtype).bits // 8
        sizes |= {"pictures": self.pictures, "device": self.loaded.device.type}
        full = prefill_cost(config, **sizes)
        cost = full
        stages = point.point.stages(getattr(config, "text_config", config).num_hidden_layers)
        if not stages[0].method.passes_through:
            cost = prefill_cost(config, **sizes, stages=stages)
        parts = ("vision", "projector", "decoder", "head", "selection")
        return {
            "flops": cost.total,
            "flops_ratio": cost.total / full.total,
            "flops_parts": {part: getattr(cost, part) for part in parts},
            "kv_bytes": cost.kv_bytes,
            "tokens_layer_mean": cost.tokens_layer_mean,
            "selection_counted": cost.selection_counted,
        }


def _middle(asked: list[Question]) -> Question | None:
    """The question of middling length, or the next one whose picture can be read."""
    ordered = order_questions(asked)
    half = len(ordered) // 2
    for question in ordered[half:] + ordered[:half]:
        try:
            if question.image is not None:
                question.load_image()
                return question
        except BadSampleError:
            continue
    return ordered[half] if ordered[half].image is None else None


def _write_metrics(point: PointWork, meter: _Meter, plan: Plan, found: dict[str, Any] | Exception | None) -> None:
    """found: the times, or what was raised while they were taken; None: not taken."""
    if isinstance(found, Exception):
        raise found
    latency = plan.shared["latency"]
    old = point.metrics or {}
    times = {name: old.get(name) for name in TIMED}
    timing = old["provenance"]["protocol"]["latency"] if old else None
    if point.needs_timing(latency):
        timing = latency
        times |= found or {}
    protocol = {
        "scoring": point.settings["scoring"],
        **point.settings["protocol"],
        "batch_size": plan.shared["batch_size"],
        "compile": plan.shared["compile"],
        "not_compiled": meter.not_compiled,
        "latency": timing,
        "text_tokens": meter.text_tokens,
        "visual_tokens": meter.visual_tokens,
    }
    figures = point.figures(point.asked) | times | meter.costs(point)
    point.finish(
        {
            "key": point.key,
            **point.settings,
            **figures,
            "questions": ids_digest(point.asked),
            "provenance": provenance(meter.loaded, protocol),
        }
    )


def _restate(point: PointWork) -> None:
    point.finish((point.metrics or {}) | point.figures(point.asked) | {"questions": ids_digest(point.asked)})


def note_failures(works: list[GroupWork]) -> list[str]:
    """One line for every point that failed, printed to standard error."""
    lines = []
    for work in works:
        for point in work.points.values():
            if point.error:
                lines.append(f"{point.point.method} kept={point.point.kept} ({point.key}): {point.error}")
    for line in lines:
        print(f"failed: {line}", file=sys.stderr)
    return lines
