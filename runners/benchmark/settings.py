"""The arguments of `runners.bench`, checked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runners.terminal.arguments import read_arguments, read_integer, read_items
from tokensel.errors import TokenselError, check_choice

PARTS = ("a", "b", "c", "d")
# The kept of part a.
CORE_KEPT = (8, 64)
KEYS = (
    *("parts", "model", "data", "questions", "device", "dtype", "repeats", "passes", "kept", "agg_layer", "sizes"),
    *("threads", "batch_size", "compile", "output"),
)


@dataclass(frozen=True)
class Settings:
    """The arguments by key; `runners.bench` describes them. agg_layer and threads are None if not given."""

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
    """Raises TokenselError for an argument that is not KEY=VALUE, an unknown key, or a value out of range."""
    plain, given = read_arguments(argv, KEYS)
    if plain:
        raise TokenselError(f"{plain[0]}: must be KEY=VALUE; keys are {', '.join(KEYS)}")
    parts = read_items(given, "parts", ",".join(PARTS))
    for part in parts:
        check_choice("parts", part, PARTS)
    check_choice("compile", given.get("compile", "false"), ("false", "true"))
    device = given.get("device", "auto")
    check_choice("device", device, ("auto", "cpu", "cuda"))
    settings = Settings(
        parts=[part for part in PARTS if part in parts],
        model=given.get("model", "tiny"),
        data=given.get("data", "diagrams"),
        questions=read_integer(given, "questions", 300, 1),
        device=device,
        dtype=given.get("dtype", ""),
        repeats=read_integer(given, "repeats", 11, 1),
        passes=read_integer(given, "passes", 3, 1),
        kept=_integers(given, "kept", "8,16,32,64,128,192", 1),
        agg_layer=_integers(given, "agg_layer", "0,2,8", 0) if "agg_layer" in given else None,
        sizes=[_size(text) for text in read_items(given, "sizes", "576x192,576x4096,2880x4096")],
        threads=read_integer(given, "threads", 1, 1) if given.get("threads") else None,
        batch_size=read_integer(given, "batch_size", 8, 1),
        compile=given.get("compile") == "true",
        output=Path(os.path.expanduser(given.get("output", "outputs/bench"))),
    )
    device = _device(device)
    dtype = settings.dtype or ("float32" if device == "cpu" else "float16")
    return replace(settings, device=device, dtype=dtype)


def _device(name: str) -> str:
    import torch  # slow, and not needed to report a mistake in the other arguments

    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise TokenselError("device=cuda: torch finds no CUDA device; choose auto or cpu")
    return ("cuda" if found else "cpu") if name == "auto" else name


def _integers(given: Mapping[str, str], key: str, default: str, least: int) -> list[int]:
    return [read_integer({key: item}, key, least, least) for item in read_items(given, key, default)]


def _size(text: str) -> tuple[int, int]:
    count, _, hidden = text.partition("x")
    least = max(CORE_KEPT) + 1
    try:
        return read_integer({"tokens": count}, "tokens", 0, least), read_integer({"hidden": hidden}, "hidden", 0, 1)
    except TokenselError as error:
        raise TokenselError(f"sizes={text[:60]}: must be TOKENSxHIDDEN with at least {least} tokens") from error
