"""Where figures come from: versions, machine, checkpoint and command, as stored in metrics.json."""

import hashlib
import platform
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import tokensel
from tokensel.models import LoadedModel
from tokensel.models.loading import checkpoint_folder

_PACKAGES = ["tokensel", "torch", "transformers", "numpy", "pillow", "safetensors", "datasets", "tokenizers"]
_PACKAGES += ["hydra-core", "wandb"]
_SECRET = re.compile(r"((?:key|token|secret|password|passwd)\s*[=:]\s*)\S+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(\w+://)[^/\s@]+@")
_COMMAND_SECONDS = 10
_CHECKPOINT_FILES = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")
_WHOLE_BYTES, _BLOCKS, _BLOCK_BYTES = 64 << 20, 64, 1 << 20


def provenance(loaded: LoadedModel, protocol: dict[str, Any]) -> dict[str, Any]:
    """Versions, machine, checkpoint, command (without secrets) and the protocol, which is stored as given.

    files: a digest of each file of a local checkpoint; commit: of the git checkout that tokensel is imported from. Both
    are None where there is no such thing.
    """
    return {
        **environment(loaded.device),
        "model": {"path": loaded.path, "revision": loaded.revision, "files": checkpoint_files(loaded.path)},
        "protocol": protocol,
    }


def environment(device: torch.device) -> dict[str, Any]:
    """The part of `provenance` that is known before a model is loaded: versions, machine, command and commit."""
    return {
        "versions": _versions(),
        "platform": platform.platform(),
        "device": _device_name(device),
        "gpus": _gpus(),
        "threads": torch.get_num_threads(),
        "command": scrub(" ".join(["python -m runners.sweep", *sys.argv[1:]])),
        "commit": checkout_commit(Path(tokensel.__file__).parent.parent),
    }


def scrub(command: str) -> str:
    """The text with the values of keys, tokens and passwords, and credentials in URLs, replaced by ***."""
    return _CREDENTIALS.sub(r"\1***@", _SECRET.sub(r"\1***", command))


@cache
def checkout_commit(folder: Path) -> str | None:
    """The commit of a git checkout, with "-dirty" if files differ; None if the folder is not the root of a checkout."""
    # An installed package may lie inside an unrelated repository.
    if _output("git", "-C", str(folder), "rev-parse", "--show-toplevel") != str(folder.resolve()):
        return None
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return _output("git", "--no-optional-locks", "-C", str(folder), *describe)


@cache
def checkpoint_files(path: str) -> dict[str, str] | None:
    """A digest of each file in a local checkpoint; None if the checkpoint is not a folder.

    SHA-256 of the whole file up to 64 MiB; of larger files, SHA-256 of the size and 64 evenly spaced blocks of 1 MiB.
    """
    folder = checkpoint_folder(path)
    if folder is None:
        return None
    files = (file for file in sorted(folder.iterdir()) if file.suffix in _CHECKPOINT_FILES and file.is_file())
    return {file.name: _file_digest(file) for file in files}


def _file_digest(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for block in range(_BLOCKS):
            opened.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
            digest.update(opened.read(_BLOCK_BYTES))
    return digest.hexdigest()


@cache
def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"


@cache
def _gpus() -> dict[str, Any] | None:
    """The GPUs that torch sees; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    drivers = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "count": torch.cuda.device_count(),
        "names": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "driver": drivers.splitlines()[0] if drivers else None,
        "cuda": torch.version.cuda,
    }


def _output(*command: str) -> str | None:
    """The standard output of a command; None if it fails, is not installed, or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
