"""A checkpoint's files, in a folder or on the hub, and their tensors, read one file at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import cached_file

from tokensel.errors import TokenselError, first_line

_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ZIP_START = b"PK\x03\x04"
# Errors that torch raises for files that are truncated or in another format.
_READ_ERRORS = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, SafetensorError)


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint.

    Parameters:
        source: a folder's path, or a hub id; folder is None for a hub id
        label: how error messages name the checkpoint, as key=value
        remedy: what the user can set if the hub does not have a file
    """

    source: str
    folder: Path | None
    label: str
    remedy: str
    revision: str | None = None

    def find(self, name: str) -> Path | None:
        """The file, downloaded if necessary; None if it is not available."""
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        try:
            return self._fetch(name)
        except OSError:
            return None

    def require(self, name: str) -> Path:
        """The file, downloaded if necessary. Raises TokenselError if it is not available."""
        if self.folder is not None:
            path = self.folder / name
            if not path.is_file():
                raise TokenselError(f"{self.label}: {self.folder} lacks {name}")
            return path
        try:
            return self._fetch(name)
        except OSError as error:
            raise TokenselError(
                f"{self.label}: {name} is available neither on the hub nor in its cache; "
                f"{self.remedy} ({reason_of(error)})"
            ) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in the file. Raises TokenselError if it is not available or not a JSON object."""
        path = self.require(name)
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TokenselError(f"{self.label}: {path} cannot be read ({reason_of(error)})") from error
        if not isinstance(read, dict):
            raise TokenselError(f"{self.label}: {path} must hold one JSON object")
        return read

    def weights(self) -> list[Path]:
        """The files with the weights: one, or the shards of an index. Raises TokenselError if there are none."""
        for single in _SINGLE_WEIGHTS:
            if self.find(f"{single}.index.json"):
                return [self.require(shard) for shard in self._shards(f"{single}.index.json")]
            if path := self.find(single):
                return [path]
        raise TokenselError(
            f"{self.label}: {self.folder or self.source} has no weights; it needs {' or '.join(_SINGLE_WEIGHTS)}, "
            "or one of them with .index.json and its shards"
        )

    def _shards(self, index: str) -> list[str]:
        weight_map = self.read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(_is_file_name(shard) for shard in weight_map.values()):
            raise TokenselError(f"{self.label}: {index} is not a list of weight shards")
        return sorted(set(weight_map.values()))

    def _fetch(self, name: str) -> Path:
        path = cached_file(self.source, name, revision=self.revision)
        if path is None:
            raise FileNotFoundError(f"{self.source} has no {name}")
        return Path(path)


def read_tensors(path: Path, label: str) -> Iterator[tuple[str, Tensor]]:
    """The names and tensors of a .safetensors or .bin file, on the CPU, memory-mapped where the format allows it.

    A .bin file is a pickle: a file that holds anything but tensors is refused, and no code in it is run.
    Raises TokenselError for a file that is damaged, refused, or not a dictionary of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping; keys() is the only way)
                    yield name, opened.get_tensor(name)
            return
        with path.open("rb") as opened_bin:
            is_zip = opened_bin.read(4) == _ZIP_START
        read = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        raise TokenselError(f"{label}: {path} is refused: it is damaged, or holds more than plain tensors") from error
    except _READ_ERRORS as error:
        raise TokenselError(f"{label}: {path} is truncated or damaged ({reason_of(error)})") from error
    if not isinstance(read, dict) or not all(isinstance(tensor, Tensor) for tensor in read.values()):
        raise TokenselError(f"{label}: {path} is not a dictionary of tensors")
    yield from read.items()


def reason_of(error: Exception) -> str:
    """The error's class and the first line of its message."""
    name, reason = type(error).__name__, first_line(error)
    return name if reason == name else f"{name}: {reason}"


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and Path(name).name == name
