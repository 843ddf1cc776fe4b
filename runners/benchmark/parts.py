"""What is measured: the functional core (a), one prompt (b), a sweep (c), loading pictures (d).

Every part gives rows for its table; a time is a dictionary of quartiles.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from runners.benchmark.output import Bar, Row
from runners.benchmark.timing import Machine, measure_machine, paired_ratio, quartiles, seconds, take_turns
from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.batches import order_questions
from tokensel.evaluation.flops import Cost, prefill_cost
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.store import PointStore
from tokensel.models import LoadedModel
from tokensel.models.parts import find_parts

CORE_KEPT = (8, 64)
SWEEP_KEPT = (8, 16, 32, 64)
TEMPERATURES = (0.1, 0.5)
WARMUP = 2
# A contender's name in tables, and what of a grid point makes it.
PROMPT_METHODS: dict[str, dict[str, str]] = {
    "fps": {"method": "fps"},
    "tome": {"method": "tome"},
    "fastv": {"method": "fastv"},
    "fastv mask": {"method": "fastv", "layout": "mask"},
}


@torch.inference_mode()
def core(sizes: Sequence[tuple[int, int]], device: torch.device, repeats: int) -> list[Row]:
    """Part a: selection and aggregation, ours and the formulae written out, on random tokens of these (N, D)."""
    from runners.benchmark.literal import contests

    cells = list(product(sizes, CORE_KEPT))
    bar = Bar("a", len(cells) * 3)
    rows = []
    for (count, hidden), kept in cells:
        tokens = torch.randn(count, hidden, generator=torch.Generator().manual_seed(0)).to(device)
        for name, (literal, ours) in contests(tokens, kept).items():
            same = torch.allclose(literal().double().cpu(), ours().double().cpu(), atol=1e-4)
            times = take_turns({"literal": _timed(literal, device), "ours": _timed(ours, device)}, repeats, WARMUP)
            rows.append(
                {"function": name, "tokens": count, "hidden": hidden, "kept": kept}
                | {f"{who}_ms": quartiles(taken, 1000) for who, taken in times.items()}
                | {"ratio": paired_ratio(times["literal"], times["ours"]), "same": "yes" if same else "NO"}
            )
            bar.tick()
    return rows


def _timed(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    return lambda: seconds(work, device)


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights that a prefill reads: before the decoder, of each of its layers, of the head."""

    vision: int
    layers: tuple[int, ...]
    head: int


def weights_of(model: Any) -> Weights:
    """Embeddings do not count: only the rows of the prompt's tokens are read."""
    parts = find_parts(model)
    decoder = _bytes(parts.decoder)
    return Weights(
        vision=_bytes(parts.llava) - decoder if parts.llava is not None else 0,
        layers=tuple(_bytes(layer) for layer in parts.layers),
        head=_bytes(parts.head) if parts.head is not None else 0,
    )


def _bytes(module: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def prefill_work(cost: Cost, weights: Weights) -> list[tuple[float, float]]:
    """(operations, bytes) of a prefill's parts in their order; activations are taken to stay in caches."""
    layers = list(zip(cost.layers, weights.layers, strict=True))
    return [(cost.vision + cost.projector, weights.vision), *layers, (cost.selection, 0), (cost.head, weights.head)]


def decode_work(cost: Cost, weights: Weights) -> list[tuple[float, float]]:
    """(operations, bytes) of the token after the first: all weights of the decoder, and the cache, are read once."""
    return [(0, sum(weights.layers) + weights.head + cost.kv_bytes)]


def meter(loaded: LoadedModel, asked: Sequence[Question], repeats: int, compiled: bool = False) -> LatencyMeter:
    """What takes the times of part b, on a question of middling length. compiled: of graphs, the full model's too."""
    return LatencyMeter(loaded, _middle(asked), repeats=repeats, warmup=WARMUP, compiled=compiled)


def prompt(
    loaded: LoadedModel, meter: LatencyMeter, kept: Sequence[int], layers: Sequence[int]
) -> tuple[list[Row], Machine]:
    """Part b: time, memory and cache of one prompt, each point in turn with the full model. A point that fails has its
    error in its row."""
    machine = measure_machine(loaded.device, loaded.model.dtype, meter.repeats)
    weights = weights_of(loaded.model)
    points: list[tuple[str, GridPoint]] = [("full", GridPoint("full"))]
    for layer, count, (name, settings) in product(layers, kept, PROMPT_METHODS.items()):
        points.append((name, GridPoint(kept=count, agg_layer=layer, **settings)))  # type: ignore[arg-type]
    full = _cost(loaded, meter, points[0][1])
    bar = Bar("b", len(points))
    rows = []
    for name, point in points:
        row: Row = {"name": name} | {key: getattr(point, key) for key in ("method", "kept", "agg_layer", "layout")}
        rows.append(row)
        try:
            cost, figures = _cost(loaded, meter, point), meter.measure(point)
        except Exception as error:  # out of memory, say: the other points go on
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            row |= figures | against_paper(cost, full, figures, machine, weights)
        bar.tick()
    return rows, machine


def against_paper(cost: Cost, full: Cost, figures: Row, machine: Machine, weights: Weights) -> Row:
    """The point's costs by formula, and how the measured times stand to them. implied: by all operations, as counters
    count them; implied_causal: by those that causal attention does."""
    implied = full.total / cost.total
    causal = (full.total - full.causal_savings) / (cost.total - cost.causal_savings)
    prefill = 1000 * machine.roofline(prefill_work(cost, weights))
    decode = 1000 * machine.roofline(decode_work(cost, weights))
    return {
        "flops": cost.total,
        "implied": implied,
        "measured_over_implied": figures["speedup"] / implied,
        "implied_causal": causal,
        "measured_over_causal": figures["speedup"] / causal,
        "kv_bytes": cost.kv_bytes,
        "roofline_ms": prefill,
        "over_roofline": figures["prefill_ms"]["p50"] / prefill,
        "decode_roofline_ms": decode,
        "decode_over_roofline": figures["decode_ms"]["p50"] / decode,
    }


def _middle(asked: Sequence[Question]) -> Question:
    """The question of middling length among those with a picture."""
    ordered = order_questions([question for question in asked if question.image is not None])
    if not ordered:
        raise TokenselError("data: part b needs a question with a picture")
    return ordered[len(ordered) // 2]


def _cost(loaded: LoadedModel, meter: LatencyMeter, point: GridPoint) -> Cost:
    ids = meter.inputs["input_ids"]
    visual = int((ids == loaded.processor.image_token_id).sum())
    return prefill_cost(
        loaded.model.config,
        text_tokens=ids.shape[1] - visual,
        visual_tokens=visual,
        stages=point.stages(meter.split.num_layers),
        bytes_per_value=torch.finfo(loaded.model.dtype).bits // 8,
        pictures=meter.inputs,
        device=loaded.device.type,
    )


def grid(temperatures: int) -> list[GridPoint]:
    """8 points at one temperature, 16 at two: kept x fps and tome, before layer 2."""
    cells = product(SWEEP_KEPT, ("fps", "tome"), TEMPERATURES[:temperatures])
    return [GridPoint(method, kept, 2, temperature) for kept, method, temperature in cells]


def sweep(
    loaded: LoadedModel, asked: Sequence[Question], passes: int, batch_size: int, compiled: bool = False
) -> list[Row]:
    """Part c: seconds of a grid over those of one pass of the full model, on the same questions; twice the questions
    beside half of them; how far the larger run's peak memory is above the smaller one's.

    asked: twice the questions. compiled: what is behind a reduction; its graphs are made before anything is timed.
    """
    half, full = list(asked[: len(asked) // 2]), [GridPoint("full")]
    runs = {
        "full": (half, full),
        "8 points": (half, grid(1)),
        "16 points": (half, grid(2)),
        "full, twice": (list(asked), full),
        "8 points, twice": (list(asked), grid(1)),
    }
    bar = Bar("c", len(runs) * passes + 2)

    def timed(questions: list[Question], points: list[GridPoint]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            stores = [PointStore(Path(folder) / str(place)) for place in range(len(points))]
            taken = seconds(lambda: _evaluate(loaded, questions, points, stores, batch_size, compiled), loaded.device)
            for store in stores:
                store.close()
        return taken

    peaks = []
    for name in ("8 points", "8 points, twice"):  # also what warms up
        peaks.append(peak_memory(partial(timed, *runs[name])))
        bar.tick()
    found = take_turns({name: partial(timed, *run) for name, run in runs.items()}, passes, 0, bar.tick)
    rows = []
    for name, (questions, points) in runs.items():
        base = "full, twice" if name.endswith("twice") else "full"
        row = {"run": name, "questions": len(questions), "points": len(points), "seconds": quartiles(found[name])}
        rows.append(row | {"over_full": paired_ratio(found[name], found[base])})
    rows[-1] |= {
        "over_half": paired_ratio(found["8 points, twice"], found["8 points"]),
        "peak_bytes": peaks[1],
        "peak_growth_bytes": None if peaks[0] is None or peaks[1] is None else peaks[1] - peaks[0],
    }
    return rows


def _evaluate(
    loaded: LoadedModel,
    asked: list[Question],
    points: list[GridPoint],
    stores: list[PointStore],
    batch_size: int,
    compiled: bool,
) -> None:
    for error in evaluate(loaded, asked, points, stores, batch_size=batch_size, compiled=compiled).values():
        raise error


def peak_memory(work: Callable[[], object]) -> int | None:
    """The largest resident size that this process has while it works, in bytes; None where only Linux could tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # forgets the peak so far
        work()
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024
    except OSError:
        return None


def loading(loaded: LoadedModel, asked: Sequence[Question], passes: int, batch_size: int) -> list[Row]:
    """Part d: opening the pictures and turning questions into tensors, as a sweep does it, without the model."""
    ordered = order_questions(asked)

    def work() -> None:
        for begin in range(0, len(ordered), batch_size):
            batch = ordered[begin : begin + batch_size]
            loaded.encode(batch, {q.image_id: q.load_image() for q in _once(batch)})

    bar = Bar("d", passes + 1)
    found = take_turns({"loading": lambda: seconds(work, loaded.device)}, passes, 1, bar.tick)["loading"]
    pictures = len(_once(ordered))
    rate = quartiles([len(ordered) / taken for taken in found])
    return [{"questions": len(ordered), "pictures": pictures, "seconds": quartiles(found), "questions_per_s": rate}]


def _once(questions: Sequence[Question]) -> list[Question]:
    """One question for each picture."""
    return list({question.image_id: question for question in questions if question.image is not None}.values())
