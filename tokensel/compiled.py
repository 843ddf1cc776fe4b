"""The layers behind a reduction as one compiled graph for each shape: torch.compile, on CUDA with CUDA graphs.

Shapes must repeat for that to pay: `SplitModel` rounds the length of the text up, kept settles the rest, and a batch
that is smaller than those before it is filled up here.
"""

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# The text's length is rounded up to a multiple of this.
TEXT_MULTIPLE = 32
# A graph for each method's length and text's length of a large grid; torch's own limit is 8.
MOST_GRAPHS = 256

# Not kept alive by its tail, which holds the layers and not their list.
_tails: WeakKeyDictionary[nn.ModuleList, "CompiledTail"] = WeakKeyDictionary()


def compiled_tail(layers: nn.ModuleList, count: int) -> "CompiledTail":
    """The tail of a decoder's first `count` layers; the same one whenever it is asked for, so that its graphs last."""
    if layers not in _tails:
        _tails[layers] = CompiledTail(list(layers)[:count])
    return _tails[layers]


class CompiledTail:
    """Runs decoder layers to the end, compiled. Where that fails it says so once, and from then on runs nothing."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.failed = False
        self._runs: dict[int, Callable[..., Tensor]] = {}
        self._rows: dict[tuple[int, ...], int] = {}

    def run(self, first: int, hidden: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor | None:
        """hidden [B, T, D] through layers `first` to the last -> [B, T, D]. mask: what each layer is given. None if it
        cannot be compiled."""
        if self.failed:
            return None
        batch = len(hidden)
        shape = (first, *hidden.shape[1:], mask is None)
        rows = self._rows[shape] = max(batch, self._rows.get(shape, 0))
        given = [hidden, mask, *rotary]
        if rows > batch:
            given = [_filled(each, batch, rows) for each in given]
        try:
            many = torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, accumulated_recompile_limit=8 * MOST_GRAPHS)
            # Compiled code does not keep inference mode's books, so it runs beside it.
            with many, torch.inference_mode(False), torch.no_grad():
                found = self._run(first)(*given)
        except Exception as error:  # no C++ compiler, an attention that cannot be traced, ...
            self.failed = True
            said = (str(error).splitlines() or [""])[0]
            warnings.warn(f"compile=true: runs without it, {type(error).__name__}: {said}", stacklevel=3)
            return None
        # A CUDA graph writes its next result where this one lies.
        return found[:batch].clone() if hidden.is_cuda else found[:batch]

    def _run(self, first: int) -> Callable[..., Tensor]:
        if first not in self._runs:
            tail = _Tail(nn.ModuleList(self.layers[first:]))
            mode = "reduce-overhead" if next(tail.parameters()).is_cuda else "default"
            self._runs[first] = torch.compile(tail, fullgraph=True, dynamic=False, mode=mode)
        return self._runs[first]


class _Tail(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=None,
                position_embeddings=(cos, sin),
                past_key_values=None,
                use_cache=False,
            )
        return hidden


def _filled(values: Any, batch: int, rows: int) -> Any:
    """Rows up to `rows`, copies of the first, where values have one for each of the batch."""
    if values is None or len(values) != batch:
        return values
    return torch.cat([values, values[:1].expand(rows - batch, *values.shape[1:])])
