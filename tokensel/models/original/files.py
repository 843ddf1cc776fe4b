"""Files of a checkpoint in a folder or on the hub, and their tensors, read one file at a time."""

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

from tokensel.errors import TokenselError

_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ZIP_START = b"PK\x03\x04"
# What torch was seen to raise for files that are cut short, foreign or not of this kind at all.
_READ_ERRORS = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, SafetensorError)


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a checkpoint's files are found.

    source   a folder's path, or a hub id; folder is None for a hub id
    told     how an error about it begins: key and value
    remedy   what the user can set when the hub does not give it
    """

    source: str
    folder: Path | None
    told: str
    remedy: str
    revision: str | None = None

    def find(self, name: str) -> Path | None:
        """The file, downloaded if need be; None if it cannot be had."""
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        try:
            return self._fetch(name)
        except OSError:
            return None

    def require(self, name: str) -> Path:
        """The file, downloaded if need be. Raises TokenselError if it cannot be had."""
        if self.folder is not None:
            path = self.folder / name
            if not path.is_file():
                raise TokenselError(f"{self.told}: {self.folder} lacks {name}")
            return path
        try:
            return self._fetch(name)
        except OSError as error:
            raise TokenselError(
                f"{self.told}: {name} cannot be had from the hub or its cache; {self.remedy} ({reason_of(error)})"
            ) from error

    def read_json(self, name: str) -> dict[str, Any]:
        path = self.require(name)
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TokenselError(f"{self.told}: {path} cannot be read ({reason_of(error)})") from error
        if not isinstance(read, dict):
            raise TokenselError(f"{self.told}: {path} must hold one JSON object")
        return read

    def weights(self) -> list[Path]:
        """The files that hold the weights: one, or the shards of an index. Raises TokenselError if there are none."""
        for single in _SINGLE_WEIGHTS:
            if self.find(f"{single}.index.json"):
                return [self.require(shard) for shard in self._shards(f"{single}.index.json")]
            if path := self.find(single):
                return [path]
        raise TokenselError(
            f"{self.told}: {self.folder or self.source} has no weights; it needs {' or '.join(_SINGLE_WEIGHTS)}, "
            "or one of them with .index.json and its shards"
        )

    def _shards(self, index: str) -> list[str]:
        weight_map = self.read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(_is_file_name(shard) for shard in weight_map.values()):
            raise TokenselError(f"{self.told}: {index} is not a list of weight shards")
        return sorted(set(weight_map.values()))

    def _fetch(self, name: str) -> Path:
        path = cached_file(self.source, name, revision=self.revision)
        if path is None:
            raise FileNotFoundError(f"{self.source} has no {name}")
        return Path(path)


def read_tensors(path: Path, told: str) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of one .safetensors or .bin file, on the CPU, mapped into memory where the format allows it.

    A .bin is a pickle: only tensors are taken from it, and one that holds anything else is refused unread.
    Raises TokenselError for a file that is damaged, refused, or not a dictionary of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (no mapping: it has no other way to list them)
                    yield name, opened.get_tensor(name)
            return
        with path.open("rb") as opened_bin:
            is_zip = opened_bin.read(4) == _ZIP_START
        read = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        raise TokenselError(f"{told}: {path} is refused: it is damaged, or holds more than plain tensors") from error
    except _READ_ERRORS as error:
        raise TokenselError(f"{told}: {path} is truncated or damaged ({reason_of(error)})") from error
    if not isinstance(read, dict) or not all(isinstance(tensor, Tensor) for tensor in read.values()):
        raise TokenselError(f"{told}: {path} is not a dictionary of tensors")
    yield from read.items()


def reason_of(error: Exception) -> str:
    """The error's class and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and Path(name).name == name
