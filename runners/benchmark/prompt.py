"""Part b: time to first token, decoding, memory and cache of one prompt, beside what FLOPs and bandwidth imply."""

from collections.abc import Sequence
from itertools import product

import torch

from runners.benchmark import timing
from runners.benchmark.limits import compare_with_limits, weights_of
from runners.benchmark.output import Bar, TableRow
from runners.benchmark.timing import Machine, measure_machine
from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.batches import order_questions
from tokensel.evaluation.flops import Cost, prefill_cost
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.latency import LatencyMeter
from tokensel.models import LoadedModel

# A contender's name in the table, and the settings of its grid point.
PROMPT_METHODS: dict[str, dict[str, str]] = {
    "fps": {"method": "fps"},
    "tome": {"method": "tome"},
    "fastv": {"method": "fastv"},
    "fastv mask": {"method": "fastv", "layout": "mask"},
}


def make_meter(
    loaded: LoadedModel, questions: Sequence[Question], repeats: int, compiled: bool = False
) -> LatencyMeter:
    """The meter of part b, on the question of median length. compiled: time compiled graphs, the full model's too."""
    return LatencyMeter(loaded, _median_question(questions), repeats=repeats, warmup=timing.WARMUP, compiled=compiled)


def measure_prompt(
    loaded: LoadedModel, meter: LatencyMeter, kept: Sequence[int], layers: Sequence[int]
) -> tuple[list[TableRow], Machine]:
    """A line for the full model and for each grid point, and the machine's measured limits.

    A point that fails has its error in its line.
    """
    machine = measure_machine(loaded.device, loaded.model.dtype, meter.repeats)
    weights = weights_of(loaded.model)
    points: list[tuple[str, GridPoint]] = [("full", GridPoint("full"))]
    for layer, count, (name, settings) in product(layers, kept, PROMPT_METHODS.items()):
        points.append((name, GridPoint(kept=count, agg_layer=layer, **settings)))  # type: ignore[arg-type]
    full = _cost(loaded, meter, points[0][1])
    bar = Bar("b", len(points))
    lines = []
    for name, point in points:
        line: TableRow = {"name": name} | {
            key: getattr(point, key) for key in ("method", "kept", "agg_layer", "layout")
        }
        lines.append(line)
        try:
            cost, figures = _cost(loaded, meter, point), meter.measure(point)
        except Exception as error:  # such as out of memory; the other points continue
            line["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            line |= figures | compare_with_limits(cost, full, figures, machine, weights)
        bar.tick()
    return lines, machine


def _median_question(questions: Sequence[Question]) -> Question:
    """The question of median length among those with a picture or video."""
    ordered = order_questions([question for question in questions if question.is_visual])
    if not ordered:
        raise TokenselError("data: part b needs a question with a picture or video")
    return ordered[len(ordered) // 2]


def _cost(loaded: LoadedModel, meter: LatencyMeter, point: GridPoint) -> Cost:
    ids = meter.inputs["input_ids"]
    visual = int((ids == loaded.image_token_id).sum())
    return prefill_cost(
        loaded.model.config,
        text_tokens=ids.shape[1] - visual,
        visual_tokens=visual,
        stages=point.stages(meter.split.num_layers),
        bytes_per_value=torch.finfo(loaded.model.dtype).bits // 8,
        pictures=meter.inputs,
        device=loaded.device.type,
    )
