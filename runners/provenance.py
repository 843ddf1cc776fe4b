"""Where figures come from: versions, device and command, for metrics.json."""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = ("tokensel", "torch", "transformers", "numpy", "pillow")
_SECRET = re.compile(r"((?:key|token|secret|password|passwd)\s*[=:]\s*)\S+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(\w+://)[^/\s@]+@")


def provenance(device: torch.device, protocol: dict[str, Any]) -> dict[str, Any]:
    """Versions, device, command (secrets scrubbed), and the protocol that the caller followed."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "command": scrub(" ".join(["python -m runners.sweep", *sys.argv[1:]])),
        "protocol": protocol,
    }


def scrub(command: str) -> str:
    """The command without the values of keys, tokens and passwords, and without credentials in addresses."""
    return _CREDENTIALS.sub(r"\1***@", _SECRET.sub(r"\1***", command))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"
