"""A whole benchmark: measures part after part, prints a table of each, and stores the results as they come."""

import json
import os
from typing import Any

import torch
import transformers

from runners.benchmark.core import measure_core
from runners.benchmark.grid import measure_grid
from runners.benchmark.loading import measure_loading
from runners.benchmark.output import TableRow, announce, draw_speedups, print_part, write_parquet
from runners.benchmark.prompt import make_meter, measure_prompt
from runners.benchmark.settings import Settings
from runners.benchmark.timing import rounded
from runners.terminal.arguments import write_whole
from tokensel.data import Question, load_questions
from tokensel.errors import TokenselError
from tokensel.models import LoadedModel, load_model

AGG_LAYERS = (0, 2, 8)


def run_benchmark(settings: Settings) -> dict[str, Any]:
    """Returns everything that was measured. bench.json has each part's results before the next part begins."""
    report: dict[str, Any] = {"setup": _setup(settings), "parts": {}, "written": []}
    _save(settings, report)
    usual_threads = torch.get_num_threads()
    loaded: LoadedModel | None = None
    questions: list[Question] = []
    layers: list[int] = []
    if set(settings.parts) - {"a"}:
        announce("loading the model")
        loaded = load_model(settings.model, dtype=settings.dtype, device=settings.device)
        layers = choose_layers(settings, loaded)
        questions = load_questions(settings.data, limit=2 * settings.questions)
    for part in settings.parts:
        torch.set_num_threads(settings.threads or (1 if part == "a" else usual_threads))
        load = os.getloadavg()[0]
        lines, more = _measure(part, settings, loaded, questions, layers)
        report["parts"][part] = {"load": load, "threads": torch.get_num_threads()}
        report["parts"][part] |= {**rounded(more), "rows": rounded(lines)}
        print_part(part, lines)
        _save(settings, report)
    torch.set_num_threads(usual_threads)
    _write(settings, report)
    return report


def choose_layers(settings: Settings, loaded: LoadedModel) -> list[int]:
    """The given agg_layers; if none were given, those of AGG_LAYERS that the model has.

    Raises TokenselError for a layer that the model does not have.
    """
    config = loaded.model.config
    depth = getattr(config, "text_config", config).num_hidden_layers
    if settings.agg_layer is None:
        return [layer for layer in AGG_LAYERS if layer < depth]
    for layer in settings.agg_layer:
        if layer >= depth:
            raise TokenselError(f"agg_layer={layer}: must be below {depth}, the model's number of layers")
    return settings.agg_layer


def _measure(
    part: str, settings: Settings, loaded: LoadedModel | None, questions: list[Question], layers: list[int]
) -> tuple[list[TableRow], dict[str, Any]]:
    """A part's table lines, and its other results."""
    if part == "a":
        return measure_core(settings.sizes, torch.device(settings.device), settings.repeats), {}
    assert loaded is not None
    half = questions[: max(1, len(questions) // 2)]
    if part == "b":
        meter = make_meter(loaded, half, settings.repeats, settings.compile)
        lines, machine = measure_prompt(loaded, meter, settings.kept, layers)
        return lines, {"machine": vars(machine), "not_compiled": meter.not_compiled}
    if part == "c":
        return measure_grid(loaded, questions, settings.passes, settings.batch_size, settings.compile), {}
    return measure_loading(loaded, half, settings.passes, settings.batch_size), {}


def _setup(settings: Settings) -> dict[str, Any]:
    device = torch.device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {os.cpu_count()} cores"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**vars(settings), "output": str(settings.output), "device_name": name, "versions": versions}


def _write(settings: Settings, report: dict[str, Any]) -> None:
    """Writes the parquet file and the figure, if the packages that they need are installed."""
    parts = {part: found["rows"] for part, found in report["parts"].items()}
    caption = f"{settings.model}, {report['setup']['device_name']}, {settings.dtype}"
    try:
        table = write_parquet(parts, settings.output / "bench.parquet")
        figure = draw_speedups(parts.get("b", []), caption, settings.output / "bench.png")
    except OSError as error:
        raise TokenselError(
            f"output={settings.output}: cannot be written ({error.strerror}); bench.json has the figures"
        ) from error
    report["written"] = [str(path) for path in (settings.output / "bench.json", table, figure) if path is not None]
    _save(settings, report)


def _save(settings: Settings, report: dict[str, Any]) -> None:
    write_whole(settings.output / "bench.json", json.dumps(report, indent=1).encode())
