"""What stands in place of compilers and CUDA graphs."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokensel.engine.compiled import WARMUP, Graphs, through
from tokensel.engine.split import SplitModel

NEEDS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)


class NoWaiting(TorchDispatchMode):
    """Refuses what a CUDA graph cannot record: reading a tensor's values, and constants made on the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::")
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "lift_fresh"), f"{name} waits for the device"
        return function(*args, **kwargs or {})


class CpuCapture:
    """In a CUDA graph's place: the output is nan until a replay, which runs the function again on the same tensors.

    count: how many recordings were made.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        self.count += 1
        for _ in range(WARMUP):
            function()
        with NoWaiting():
            output = function()
        output.fill_(torch.nan)
        return output, lambda: output.copy_(function())


def uncompiled_split(model: torch.nn.Module, capture: CpuCapture | None = None) -> SplitModel:
    """The compiled model in pieces, with layers that run as they are; its graphs are recorded by `capture`."""
    split = SplitModel(model, compiled=True)
    split.graphs = Graphs(list(split.parts.layers)[: split.num_layers], capture)
    split.graphs.through = through
    return split
