"""What stands in place of compilers and CUDA graphs."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokensel.engine.compiled import WARMUP, Graphs, through
from tokensel.engine.split import SplitModel

NEEDS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)


class CpuCapture:
    """In a CUDA graph's place: the output is nan until a replay, which runs the function again on the same tensors.

    count: how many recordings were made.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        self.count += 1
        for _ in range(WARMUP + 1):
            output = function()
        output.fill_(torch.nan)
        return output, lambda: output.copy_(function())


def uncompiled_split(model: torch.nn.Module, capture: CpuCapture | None = None) -> SplitModel:
    """The compiled model in pieces, with layers that run as they are; its graphs are recorded by `capture`."""
    split = SplitModel(model, compiled=True)
    split.graphs = Graphs(list(split.parts.layers)[: split.num_layers], capture)
    split.graphs.through = through
    return split
