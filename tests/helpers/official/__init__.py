"""Reference cases made with the methods' official code: reads them, and holds one check per method.

A folder of cases holds manifest.json, which lists every method's cases with their settings, and one safetensors file
per method. The module of a method's name has `check(case)`, which runs our method on a case's inputs through the public
interface and raises AssertionError unless the outputs are the official ones; RoundingDecides where no rule could tell.
"""

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SAMPLE = Path(__file__).parents[2] / "golden" / "official"
FULL = Path(__file__).parents[4] / "shared" / "reference" / "official"


class RoundingDecides(AssertionError):
    """The official float32 arithmetic decides a case otherwise than exact arithmetic, with which our choice agrees."""


def folder() -> Path:
    """The folder named by TOKENSEL_OFFICIAL; else all cases where they are at hand; else the committed sample."""
    named = os.environ.get("TOKENSEL_OFFICIAL")
    if named:
        return Path(named)
    return FULL if (FULL / "manifest.json").is_file() else SAMPLE


@dataclass(frozen=True)
class Case:
    """One case of a method's official code.

    settings: as the manifest gives them. `case["name"]` is the tensor CASE.name of the method's file, as it is stored,
    without a batch dimension; int tensors come as int64.
    """

    method: str
    name: str
    settings: dict[str, Any]
    file: Path

    def __getitem__(self, name: str) -> Tensor:
        return self._read(f"{self.name}.{name}")

    def __contains__(self, name: str) -> bool:
        return f"{self.name}.{name}" in self._names

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """Weights that cases share: the tensors PREFIX.x as x."""
        with safe_open(self.file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith(f"{prefix}.")]  # noqa: SIM118
            return {name.removeprefix(f"{prefix}."): opened.get_tensor(name) for name in names}

    def shared(self, name: str) -> Tensor:
        """A tensor of the file that all cases share."""
        return self._read(name)

    @property
    def stable(self) -> bool:
        """Whether rounding cannot decide the official answer; cases without that mark count as stable."""
        return bool(self.settings.get("stable", not str(self.settings.get("compare", "")).startswith("unstable")))

    @cached_property
    def _names(self) -> set[str]:
        with safe_open(self.file, "pt") as opened:
            return set(opened.keys())

    def _read(self, name: str) -> Tensor:
        with safe_open(self.file, "pt") as opened:
            tensor = opened.get_tensor(name)
        return tensor.long() if tensor.dtype in (torch.int32, torch.int16, torch.uint8) else tensor


def methods() -> list[str]:
    """The methods of the manifest."""
    return list(_manifest()["methods"])


def sources() -> dict[str, str]:
    """Where each method's official code is from: repository, commit and place."""
    return {method: entry["official"] for method, entry in _manifest()["methods"].items()}


def cases(method: str) -> list[Case]:
    """All cases of a method, stable or not."""
    entry = _manifest()["methods"][method]
    file = folder() / entry["file"]
    return [Case(method, case.get("case", case.get("name")), case, file) for case in entry["cases"]]


def check_of(method: str) -> Callable[[Case], None]:
    """The check of a method."""
    return importlib.import_module(f"helpers.official.{method}").check


def _manifest() -> dict[str, Any]:
    return json.loads((folder() / "manifest.json").read_text())


def assert_same(ours: Tensor, official: Tensor, what: str) -> None:
    """The same indices in the same order."""
    assert ours.tolist() == official.tolist(), f"{what}: {ours.tolist()} instead of {official.tolist()}"


def assert_same_set(ours: Tensor, official: Tensor, what: str) -> None:
    """The same indices in any order, repetitions included."""
    assert_same(ours.sort().values, official.sort().values, what)


def assert_close(ours: Tensor, official: Tensor, what: str, atol: float = 1e-4, rtol: float = 1e-4) -> None:
    """The same values."""
    torch.testing.assert_close(ours, official, atol=atol, rtol=rtol, msg=lambda message: f"{what}: {message}")
