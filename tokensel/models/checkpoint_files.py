"""The files in a checkpoint's folder, checked before anything is loaded.

transformers' own errors about a wrong field often name neither the file nor the field, and some fields fail only when a
picture is prepared, or fill the memory.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokensel.errors import TokenselError, as_typed

_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WEIGHTS = "model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin"

# Far above any model's; a layer too many is built before it is found out that no weights belong to it.
_Size = Annotated[int, Field(gt=0, le=1 << 24)]
_Layers = Annotated[int, Field(gt=0, le=1000)]
_Token = Annotated[int, Field(ge=0, le=1 << 24)]
_Sizes = _Size | Annotated[list[_Size], Field(min_length=1, max_length=2)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Numbers = Annotated[float, Field(allow_inf_nan=False)] | list[Annotated[float, Field(allow_inf_nan=False)]]


class _File(BaseModel):
    """The fields that are checked; null and a missing field mean transformers' default."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Decoder(_File):
    model_type: str | None = None
    hidden_size: _Size | None = None
    intermediate_size: _Size | None = None
    num_hidden_layers: _Layers | None = None
    num_attention_heads: _Size | None = None
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    vocab_size: _Size | None = None
    max_position_embeddings: _Size | None = None
    hidden_act: str | None = None
    rms_norm_eps: float | None = None
    rope_theta: float | None = None
    tie_word_embeddings: bool | None = None


class _Tower(_File):
    hidden_act: str | None = None
    model_type: str | None = None
    hidden_size: _Size | None = None
    intermediate_size: _Size | None = None
    num_hidden_layers: _Layers | None = None
    depth: _Layers | None = None
    num_attention_heads: _Size | None = None
    num_channels: _Size | None = None
    image_size: _Sizes | None = None
    patch_size: _Sizes | None = None
    layer_norm_eps: float | None = None


class _Config(_Decoder):
    text_config: _Decoder | None = None
    vision_config: _Tower | None = None
    image_token_index: _Token | None = None
    image_token_id: _Token | None = None
    image_seq_length: _Size | None = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_select_strategy: Literal["default", "full"] | None = None
    architectures: list[str] | None = None


class _Generation(_File):
    bos_token_id: _Token | list[_Token] | None = None
    eos_token_id: _Token | list[_Token] | None = None
    pad_token_id: _Token | list[_Token] | None = None


class _ImageProcessor(_File):
    image_processor_type: str | None = None
    size: _Size | dict[str, _Size] | None = None
    crop_size: _Size | dict[str, _Size] | None = None
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    rescale_factor: _Positive | None = None
    image_mean: _Numbers | None = None
    image_std: _Positive | list[_Positive] | None = None


class _Processor(_ImageProcessor):
    image_processor: _ImageProcessor | None = None
    processor_class: str | None = None
    image_token: str | None = None
    patch_size: _Sizes | None = None
    num_additional_image_tokens: Annotated[int, Field(ge=0, le=1000)] | None = None
    vision_feature_select_strategy: Literal["default", "full"] | None = None
    chat_template: str | list[Any] | dict[str, str] | None = None


class _Tokenizer(_File):
    tokenizer_class: str | None = None
    padding_side: Literal["left", "right"] | None = None
    model_max_length: Annotated[float, Field(gt=0)] | None = None
    chat_template: str | list[Any] | dict[str, str] | None = None
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None
    pad_token: str | dict[str, Any] | None = None
    unk_token: str | dict[str, Any] | None = None


_FILES: dict[str, type[_File]] = {
    "config.json": _Config,
    "generation_config.json": _Generation,
    "processor_config.json": _Processor,
    "preprocessor_config.json": _Processor,
    "tokenizer_config.json": _Tokenizer,
}


def check_folder(path: str, folder: Path) -> None:
    """Raises TokenselError if the folder has no config or weights, or a file has a field of the wrong type.

    path: the model's as the user gave it, for messages.
    """
    if not (folder / "config.json").is_file():
        raise TokenselError(f"model.path={path}: {folder} has no config.json; it needs one, and {_WEIGHTS}")
    for name, kind in _FILES.items():
        if (folder / name).is_file():
            _check_fields(f"model.path={path}", folder / name, kind)
    _check_weights(path, folder)


def _check_fields(label: str, file: Path, kind: type[_File]) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenselError(f"{label}: {file} cannot be read (no valid JSON)") from error
    if not isinstance(content, dict):
        raise TokenselError(f"{label}: {file} must hold one JSON object")
    try:
        kind.model_validate(content)
    except ValidationError as error:
        # Of a union there is one for each member: that which leads deepest is of the member that was meant.
        found = [(*_field_at(content, each["loc"]), str(each["msg"])) for each in error.errors()]
        keys, value, problem = max(found, key=lambda each: len(each[0]))
        raise TokenselError(
            f"{label}: {file} has {'.'.join(keys)}={as_typed(value)}: {problem[:1].lower()}{problem[1:]}"
        ) from error


def _field_at(content: Any, location: Sequence[int | str]) -> tuple[list[str], Any]:
    """The keys that lead to a field, and its value. location: pydantic's, which also names members of unions."""
    keys = []
    for part in location:
        if isinstance(content, dict) and part in content:
            content = content[part]
            keys.append(str(part))
    return keys, content


@contextmanager
def naming(path: str, source: str, *files: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Inside the block, what a wrong file makes transformers raise becomes a TokenselError that names it.

    path: the model's, for messages. source: a folder or hub id. files: of which those that exist are named. kinds: the
    errors that are the file's.
    """
    try:
        yield
    except TokenselError:
        raise
    except kinds as error:
        present = [name for name in files if (Path(source) / name).is_file()] or files
        reason = " ".join(str(error).split())[:300]
        raise TokenselError(
            f"model.path={path}: {' or '.join(present)} cannot be used ({type(error).__name__}: {reason})"
        ) from error


def _check_weights(path: str, folder: Path) -> None:
    if any((folder / name).is_file() for name in _SINGLE_WEIGHTS):
        return
    for index in (folder / f"{name}.index.json" for name in _SINGLE_WEIGHTS):
        if not index.is_file():
            continue
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise TokenselError(f"model.path={path}: {index} is not a list of weight shards") from error
        if missing:
            raise TokenselError(f"model.path={path}: {folder} lacks the weight shard {missing[0]}")
        return
    raise TokenselError(f"model.path={path}: {folder} has no weights; it needs {_WEIGHTS}")
