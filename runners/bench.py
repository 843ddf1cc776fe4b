"""How fast it is, side by side with what it is compared with, and how near to what the arithmetic allows.

    python -m runners.bench                                                    # all parts, the embedded model
    python -m runners.bench parts=b model=random:llava_1024 kept=8,64 agg_layer=2
    python -m runners.bench parts=b,c model=random:llava_7b device=cuda        # a GPU, no download

a: selection and aggregation against their formulae written out. b: time to first token, decoding, memory and cache of
one prompt, beside the speed-up that its operations imply and the time that the device's measured bandwidth and matrix
rate allow. c: what a grid costs over one pass of the full model. d: loading pictures alone.

Contenders take turns within one run, figures are medians with quartiles, ratios medians of paired ratios. Writes
bench.json, bench.parquet and bench.png; the last line of standard output is JSON. Keys:

    parts=a,b,c,d  model=tiny  data=diagrams  questions=300  device=auto  dtype=     (cpu: float32, cuda: float16)
    repeats=11     timed runs in parts a and b;  passes=3: timed passes in parts c and d
    kept=8,16,32,64,128,192  agg_layer=0,2,8                        of part b
    sizes=576x192,576x4096,2880x4096  threads=                      visual tokens x hidden size of part a, which has
    batch_size=8   output=outputs/bench                             one thread unless told
    compile=false  true: by compiled graphs in parts b and c, the full model of part b too
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from runners.benchmark import parts as bench_parts
from runners.benchmark.output import Row, draw_speedups, print_table, write_parquet
from runners.benchmark.timing import rounded
from runners.terminal.arguments import read_arguments, read_integer, read_list, write_whole
from tokensel.data import Question, load_questions
from tokensel.errors import TokenselError, check_choice
from tokensel.models import LoadedModel, load_model

PARTS = ("a", "b", "c", "d")
KEYS: tuple[str, ...] = (
    "parts",
    "model",
    "data",
    "questions",
    "device",
    "dtype",
    "repeats",
    "passes",
    "kept",
    "agg_layer",
    "sizes",
)
KEYS += ("threads", "batch_size", "compile", "output")
AGG_LAYERS = (0, 2, 8)
TITLES = {
    "a": "selection and aggregation, milliseconds",
    "b": "one prompt, milliseconds",
    "c": "a sweep",
    "d": "loading pictures",
}
# Heading, key, format.
COLUMNS: dict[str, list[tuple[str, str, str]]] = {
    "a": [
        ("function", "function", ""),
        ("tokens", "tokens", ""),
        ("hidden", "hidden", ""),
        ("kept", "kept", ""),
        ("literal", "literal_ms", ".2f"),
        ("ours", "ours_ms", ".2f"),
        ("ratio", "ratio", ".2f"),
        ("same", "same", ""),
    ],
    "b": [
        ("method", "name", ""),
        ("kept", "kept", ""),
        ("layer", "agg_layer", ""),
        ("prefill", "prefill_ms", ".1f"),
        ("select", "select_ms", ".1f"),
        ("decode", "decode_ms", ".1f"),
        ("speed-up", "speedup", ".2f"),
        ("implied", "implied", ".2f"),
        ("of it", "measured_over_implied", ".0%"),
        ("causal", "implied_causal", ".2f"),
        ("of it", "measured_over_causal", ".0%"),
        ("roofline", "roofline_ms", ".1f"),
        ("cache MiB", "kv_mib", ".1f"),
        ("peak MiB", "peak_mib", ".0f"),
        ("error", "error", ""),
    ],
    "c": [
        ("run", "run", ""),
        ("questions", "questions", ""),
        ("points", "points", ""),
        ("seconds", "seconds", ".2f"),
        ("over full", "over_full", ".2f"),
        ("over half", "over_half", ".2f"),
        ("peak MiB", "peak_mib", ".0f"),
        ("growth MiB", "growth_mib", ".1f"),
    ],
    "d": [
        ("questions", "questions", ""),
        ("pictures", "pictures", ""),
        ("seconds", "seconds", ".2f"),
        ("questions/s", "questions_per_s", ".1f"),
    ],
}
_MIB = {
    "kv_bytes": "kv_mib",
    "peak_memory_bytes": "peak_mib",
    "peak_bytes": "peak_mib",
    "peak_growth_bytes": "growth_mib",
}


@dataclass(frozen=True)
class Settings:
    """What the command was told; agg_layer and threads None: not told."""

    parts: list[str]
    model: str
    data: str
    questions: int
    device: str
    dtype: str
    repeats: int
    passes: int
    kept: list[int]
    agg_layer: list[int] | None
    sizes: list[tuple[int, int]]
    threads: int | None
    batch_size: int
    compile: bool
    output: Path


def read_settings(argv: Sequence[str]) -> Settings:
    """Raises TokenselError for an argument that is no KEY=VALUE, an unknown key, or a value out of its range."""
    plain, given = read_arguments(argv, KEYS)
    if plain:
        raise TokenselError(f"{plain[0]}: must be KEY=VALUE; keys are {', '.join(KEYS)}")
    parts = read_list(given.get("parts", ",".join(PARTS)))
    for part in parts:
        check_choice("parts", part, PARTS)
    check_choice("compile", given.get("compile", "false"), ("false", "true"))
    device = given.get("device", "auto")
    check_choice("device", device, ("auto", "cpu", "cuda"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise TokenselError("device=cuda: torch sees no CUDA device; choose auto or cpu")
    return Settings(
        parts=[part for part in PARTS if part in parts],
        model=given.get("model", "tiny"),
        data=given.get("data", "diagrams"),
        questions=read_integer(given, "questions", 300, 1),
        device=device,
        dtype=given.get("dtype") or ("float32" if device == "cpu" else "float16"),
        repeats=read_integer(given, "repeats", 11, 1),
        passes=read_integer(given, "passes", 3, 1),
        kept=_integers("kept", given.get("kept", "8,16,32,64,128,192"), 1),
        agg_layer=_integers("agg_layer", given["agg_layer"], 0) if "agg_layer" in given else None,
        sizes=[_size(text) for text in read_list(given.get("sizes", "576x192,576x4096,2880x4096"))],
        threads=read_integer(given, "threads", 1, 1) if given.get("threads") else None,
        batch_size=read_integer(given, "batch_size", 8, 1),
        compile=given.get("compile") == "true",
        output=Path(given.get("output", "outputs/bench")).expanduser(),
    )


def _integers(key: str, text: str, least: int) -> list[int]:
    return [read_integer({key: item}, key, least, least) for item in read_list(text)]


def _size(text: str) -> tuple[int, int]:
    count, _, hidden = text.partition("x")
    least = max(bench_parts.CORE_KEPT) + 1
    if not (count.isdecimal() and hidden.isdecimal() and int(count) >= least and int(hidden) >= 1):
        raise TokenselError(f"sizes={text}: must be TOKENSxHIDDEN with at least {least} tokens")
    return int(count), int(hidden)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark with these arguments (default: the command line's). Returns the exit status.

    0: all figures are there. 1: a point of part b failed. 2: a mistake in the arguments, the model or the data.
    130: interrupted.
    """
    try:
        return run(read_settings(sys.argv[1:] if argv is None else argv))
    except TokenselError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the parts that were done are in bench.json", file=sys.stderr)
        return 130


def run(settings: Settings) -> int:
    """Measures part after part; what is measured is in bench.json before the next part begins."""
    told: dict[str, Any] = {"setup": _setup(settings), "parts": {}, "written": []}
    _save(settings, told)  # a folder that cannot be written to is better known now
    usual = torch.get_num_threads()
    loaded: LoadedModel | None = None
    asked: list[Question] = []
    layers: list[int] = []
    if set(settings.parts) - {"a"}:
        loaded = load_model(settings.model, dtype=settings.dtype, device=settings.device)
        layers = _layers(settings, loaded)
        asked = load_questions(settings.data, limit=2 * settings.questions)
    for part in settings.parts:
        torch.set_num_threads(settings.threads or (1 if part == "a" else usual))
        load = os.getloadavg()[0]
        rows, more = _measure(part, settings, loaded, asked, layers)
        told["parts"][part] = {"load": load, "threads": torch.get_num_threads(), **rounded(more), "rows": rounded(rows)}
        shown = [row | {new: _mib(row.get(old)) for old, new in _MIB.items() if old in row} for row in rows]
        columns = [column for column in COLUMNS[part] if any(row.get(column[1]) is not None for row in shown)]
        print_table(f"{part}: {TITLES[part]}", columns, shown)
        _save(settings, told)
    torch.set_num_threads(usual)
    _write(settings, told)
    print(json.dumps(told), flush=True)
    failed = any("error" in row for part in told["parts"].values() for row in part["rows"])
    return 1 if failed else 0


def _measure(
    part: str, settings: Settings, loaded: LoadedModel | None, asked: list[Question], layers: list[int]
) -> tuple[list[Row], dict[str, Any]]:
    """A part's rows, and what else it tells."""
    if part == "a":
        return bench_parts.core(settings.sizes, torch.device(settings.device), settings.repeats), {}
    assert loaded is not None
    half = asked[: max(1, len(asked) // 2)]
    if part == "b":
        meter = bench_parts.meter(loaded, half, settings.repeats, settings.compile)
        rows, machine = bench_parts.prompt(loaded, meter, settings.kept, layers)
        return rows, {"machine": vars(machine), "not_compiled": meter.not_compiled}
    if part == "c":
        return bench_parts.sweep(loaded, asked, settings.passes, settings.batch_size, settings.compile), {}
    return bench_parts.loading(loaded, half, settings.passes, settings.batch_size), {}


def _layers(settings: Settings, loaded: LoadedModel) -> list[int]:
    """The layers asked for; untold, those of the usual ones that the model has."""
    config = loaded.model.config
    depth = getattr(config, "text_config", config).num_hidden_layers
    if settings.agg_layer is None:
        return [layer for layer in AGG_LAYERS if layer < depth]
    for layer in settings.agg_layer:
        if layer >= depth:
            raise TokenselError(f"agg_layer={layer}: must be below {depth}, the model's number of layers")
    return settings.agg_layer


def _setup(settings: Settings) -> dict[str, Any]:
    device = torch.device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {os.cpu_count()} cores"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**vars(settings), "output": str(settings.output), "device_name": name, "versions": versions}


def _mib(count: int | None) -> float | None:
    return None if count is None else count / 2**20


def _write(settings: Settings, told: dict[str, Any]) -> None:
    """The parquet file and the figure, where what they need is installed."""
    parts = {part: found["rows"] for part, found in told["parts"].items()}
    caption = f"{settings.model}, {told['setup']['device_name']}, {settings.dtype}"
    table = write_parquet(parts, settings.output / "bench.parquet")
    figure = draw_speedups(parts.get("b", []), caption, settings.output / "bench.png")
    told["written"] = [str(path) for path in (settings.output / "bench.json", table, figure) if path is not None]
    _save(settings, told)


def _save(settings: Settings, told: dict[str, Any]) -> None:
    write_whole(settings.output / "bench.json", json.dumps(told, indent=1).encode())


if __name__ == "__main__":
    sys.exit(main())
