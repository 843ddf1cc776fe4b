"""Choices computed in the model's own precision, as official code computes them in half-precision models.

Methods compute in float32. Under `in_precision(torch.float16)` every float32 result of theirs is rounded to float16,
which is what a float16 kernel that accumulates in float32 gives. Methods need no code for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def in_precision(dtype: torch.dtype) -> Iterator[None]:
    """Rounds the float32 results of all operations in the block to a half-precision dtype; float32 changes nothing.

    Numbers beyond the dtype's range are not rounded. Kernels outside torch's operators, on a GPU or in compiled code,
    are not reached.
    """
    if dtype == torch.float32 or not dtype.is_floating_point:
        yield
        return
    with _Rounding(dtype):
        yield


class _Rounding(TorchDispatchMode):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        results = found if isinstance(found, tuple) else (found,)
        if len(results) != len(returns):
            return found
        rounded = tuple(self._rounded(result, each.alias_info) for result, each in zip(results, returns, strict=True))
        return rounded if isinstance(found, tuple) else rounded[0]

    def _rounded(self, result: Any, alias: Any) -> Any:
        """alias: None for a new tensor; else it is another tensor's memory, which the operation has written or not."""
        if not isinstance(result, Tensor) or result.dtype != torch.float32 or (alias and not alias.is_write):
            return result
        near = result.to(self.dtype).to(torch.float32)
        near = torch.where(near.isfinite(), near, result)
        return near if alias is None else result.copy_(near)
