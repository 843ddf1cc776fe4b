"""What the files of a grid point must look like for those that read them."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# What a column of 64-bit integers can hold.
_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Number = Annotated[float, Field(ge=-(2**62), le=2**62, allow_inf_nan=False)]
_Share = Annotated[float, Field(lt=1)]


class _Fields(BaseModel):
    """Fields that are checked where they are present; others are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Quartiles(_Fields):
    p25: _Number | None = None
    p50: _Number | None = None
    p75: _Number | None = None


class _Model(_Fields):
    path: str | None = None
    revision: str | None = None
    dtype: str | None = None


class _Data(_Fields):
    name: str | None = None
    options: dict[str, Any] | None = None
    digest: str | None = None


class _Latency(_Fields):
    repeats: _Whole | None = None
    warmup: _Whole | None = None
    decode_tokens: _Whole | None = None


class _Protocol(_Fields):
    prompt: str | None = None
    conv: str | None = None
    image_aspect: str | None = None
    reading: str | None = None
    scoring: str | None = None
    batch_size: _Whole | None = None
    not_compiled: dict[str, str] | None = None
    latency: _Latency | None = None
    text_tokens: _Whole | None = None
    visual_tokens: _Whole | None = None
    video_grid: list[_Whole] | None = None


class _Provenance(_Fields):
    versions: dict[str, str | None] | None = None
    platform: str | None = None
    device: str | None = None
    gpus: dict[str, Any] | None = None
    threads: _Whole | None = None
    command: str | None = None
    commit: str | None = None
    model: dict[str, Any] | None = None
    protocol: _Protocol | None = None


class StoredFields(_Fields):
    """The fields of metrics.json and config.yaml that readers compute with, each of which an old file may lack."""

    key: str | None = None
    scoring: str | None = None
    code: str | None = None
    stages: str | None = None
    temperature: _Number | None = None
    aggregation: str | None = None
    aggregator: str | None = None
    layout: str | None = None
    position: str | None = None
    min_margin: _Number | None = None
    near_ties: _Whole | None = None
    n_tied_choice: _Whole | None = None
    n_ties: _Whole | None = None
    chance: _Number | None = None
    select_ms: _Quartiles | None = None
    vision_ms: _Quartiles | None = None
    prefill_ms: _Quartiles | None = None
    decode_ms: _Quartiles | None = None
    total_ms: _Quartiles | None = None
    speedup: _Number | None = None
    speedup_total: _Number | None = None
    peak_memory_bytes: _Whole | None = None
    flops: _Whole | None = None
    flops_ratio: _Number | None = None
    flops_parts: dict[str, _Number] | None = None
    kv_bytes: _Whole | None = None
    tokens_layer_mean: _Number | None = None
    tokens_left: _Whole | None = None
    kept_mean: _Number | None = None
    kept_sd: _Number | None = None
    selection_counted: bool | None = None
    yes_no: dict[str, Any] | None = None
    benchmark: dict[str, Any] | None = None
    unscored: _Whole | None = None
    turn_accuracy: dict[str, _Number] | None = None
    kept: _Whole | _Share | str | list[Any] | None = None
    agg_layer: _Whole | list[Any] | None = None
    seed: _Whole | None = None
    n: _Whole | None = None
    correct: _Whole | None = None
    skipped: _Whole | None = None
    accuracy: _Number | None = None
    ci_low: _Number | None = None
    ci_high: _Number | None = None
    questions: str | None = None
    method: str | None = None
    model: _Model | None = None
    data: _Data | None = None
    protocol: _Protocol | None = None
    method_options: dict[str, Any] | None = None
    budgets: list[str] | None = None
    provenance: _Provenance | None = None


def check_stored(settings: Any) -> None:
    """Raises ValueError or RecursionError unless metrics.json or config.yaml may hold this."""
    StoredFields.model_validate(settings)
    json.dumps(settings, ensure_ascii=False, default=str).encode()  # fails for half a surrogate pair


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_choice(value: Any) -> bool:
    """An index into a question's choices; runners.infer stores letters."""
    return type(value) is int and 0 <= value < 2**15


# What the optional fields of a line may be, None and absence apart. type() is used: True is an int to isinstance.
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "skipped": lambda value: type(value) is bool,
    "score": lambda value: type(value) in (int, float) and 0 <= value <= 1,
    "tied_choice": lambda value: type(value) is bool,
    "margin": lambda value: type(value) in (int, float) and abs(value) <= 2**62,
    "seconds": lambda value: type(value) in (int, float) and abs(value) <= 2**62,
    "text": lambda value: type(value) is str and value.encode() is not None,
    "error": lambda value: type(value) is str and value.encode() is not None,
    "positions": lambda value: type(value) is list and all(map(_is_count, value)),
    "kept": lambda value: (
        type(value) is dict and all(layer.isdecimal() and _is_count(count) for layer, count in value.items())
    ),
}


def _is_letter(value: Any) -> bool:
    return type(value) is str and len(value) == 1


def check_prediction(record: Any) -> None:
    """Raises ValueError, KeyError or TypeError unless a line of predictions.jsonl is one."""
    id = record["id"]
    right = type(id) is str and id.encode() is not None  # fails for half a surrogate pair
    if "answer" in record or "prediction" in record:
        prediction, answer = record.get("prediction"), record.get("answer")
        right &= type(record["correct"]) is bool
        right &= _are(_is_choice, prediction, answer) or _are(_is_letter, prediction, answer)
        # Only what is there is looked at: reading a large folder is mostly this function.
        for name, value in record.items():
            if value is not None and name in _OPTIONAL and not _OPTIONAL[name](value):
                right = False
    if not right:
        raise ValueError(record)


def _are(allows: Callable[[Any], bool], one: Any, other: Any) -> bool:
    return (one is None or allows(one)) and (other is None or allows(other))
