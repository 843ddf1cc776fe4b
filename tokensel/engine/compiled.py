"""Decoder layers as compiled graphs, one for each shape that they meet; on CUDA a run of them is one CUDA graph.

Shapes must repeat for that to pay: `SplitModel` rounds the length of the text up, kept settles the rest.
"""

import warnings
from collections.abc import Callable, Hashable
from copy import copy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tokensel.engine.stock import LAYER_CACHE

# The text's length is rounded up to a multiple of this.
TEXT_MULTIPLE = 32
# A graph for each method's length and text's length of a large grid; torch's own limit is 8.
MOST_GRAPHS = 256
# Runs before a CUDA graph is recorded: kernels are built and chosen in them.
WARMUP = 3

# capture(function) -> (output, replay): records the function. Each replay() reads the function's tensors again and
# writes to the same output.
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], object]]]
# Through(layer, hidden, mask, cos, sin[, keys, values, where]) -> hidden.
Through = Callable[..., Tensor]

# Not kept alive by its graphs, which hold the layers and not their list.
_graphs: WeakKeyDictionary[nn.ModuleList, "Graphs"] = WeakKeyDictionary()


def graphs_of(layers: nn.ModuleList, count: int) -> "Graphs":
    """The graphs of a decoder's first `count` layers; the same ones whenever they are asked for, so that they last."""
    if layers not in _graphs:
        _graphs[layers] = Graphs(list(layers)[:count])
    return _graphs[layers]


class Memory:
    """What a layer takes for its KV cache: buffers keys and values [B, heads, capacity, d] of a fixed size.

    where None: a prompt of T tokens, which is written to the first T places and attends to itself; else LongTensor[1],
    the index of the one new token, which attends to the whole buffer, so a mask must hide the part that is empty.
    """

    def __init__(self, keys: Tensor, values: Tensor, where: Tensor | None) -> None:
        self.keys, self.values, self.where = keys, values, where

    def update(self, key: Tensor, value: Tensor, layer: int, *more: Any, **given: Any) -> tuple[Tensor, Tensor]:
        """What transformers' caches do: stores key and value [B, heads, T, d], and gives those to attend to."""
        if self.where is None:
            self.keys[:, :, : key.shape[2]].copy_(key)
            self.values[:, :, : value.shape[2]].copy_(value)
            return key, value
        self.keys.index_copy_(2, self.where, key)
        self.values.index_copy_(2, self.where, value)
        return self.keys, self.values


def through(
    layer: nn.Module,
    hidden: Tensor,
    mask: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """hidden [B, T, D] through one layer. mask: what the layer's attention takes; cos, sin: [B or 1, T, d]."""
    memory = None if keys is None or values is None else Memory(keys, values, where)
    return layer(
        hidden,
        attention_mask=mask,
        position_ids=None,
        position_embeddings=(cos, sin),
        use_cache=memory is not None,
        **{LAYER_CACHE: memory},
    )


class Graphs:
    """Runs functions of decoder layers, compiled. Where that fails it says so once for each kind of function, and from
    then on runs those as they are.

    capture: records each compiled function, which is replayed afterwards. None: CUDA graphs of layers on a GPU, and
    nothing is recorded elsewhere.
    """

    def __init__(self, layers: list[nn.Module], capture: Capture | None = None) -> None:
        self.layers = [_without_index(layer) for layer in layers]
        self.failed: dict[str, str] = {}  # kinds of functions, and why
        self._calls: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._through: Through | None = None
        self._rows: dict[tuple[int, ...], int] = {}
        self._capture = capture

    def call(self, key: tuple[Any, ...], function: Callable[..., Any], *given: Any) -> Any:
        """function(through, *given), compiled. given: tensors, None, and lists of tensors that stay where they are.

        key: identifies the graph; key[0] is its kind. The function may run several times. Returns a tensor that nothing
        writes to later.
        """
        with torch.inference_mode(False), torch.no_grad():  # compiled code does not keep inference mode's books
            if key[0] not in self.failed:
                try:
                    most = {"recompile_limit": MOST_GRAPHS, "accumulated_recompile_limit": 8 * MOST_GRAPHS}
                    with torch._dynamo.config.patch(most):
                        return self._compiled(key, function)(*given)
                except Exception as error:  # no C++ compiler, an attention that cannot be traced, ...
                    said = (str(error).splitlines() or [""])[0]
                    self.go_without(key[0], f"{type(error).__name__}: {said}")
            return function(through, *given)

    def go_without(self, kind: str, why: str) -> None:
        """Notes, and says, that this kind of work is not compiled."""
        if kind not in self.failed:
            self.failed[kind] = why
            warnings.warn(f"compile=true: not compiled: {kind}, {why}", stacklevel=4)

    def tail(self, first: int, hidden: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """hidden [B, T, D] through layers `first` to the last -> [B, T, D]. A batch that is smaller than those before
        it is filled up."""
        batch = len(hidden)
        shape = (first, *hidden.shape[1:], mask is None)
        rows = self._rows[shape] = max(batch, self._rows.get(shape, 0))
        given = [hidden, mask, *rotary]
        if rows > batch:
            given = [_filled(each, batch, rows) for each in given]
        return self.call(("tail", first), partial(_tail, self.layers[first:]), *given)[:batch]

    def forget(self, *kinds: str) -> None:
        """Drops what was compiled for these kinds of functions."""
        self._calls = {key: call for key, call in self._calls.items() if key[0] not in kinds}

    def _compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._calls:
            # One graph of a layer serves all of them: built in seconds, however deep the decoder.
            self._through = self._through or torch.compile(through, fullgraph=True, dynamic=False)
            self._calls[key] = partial(function, self._through)
            if self._capture is None and next(self.layers[0].parameters()).is_cuda:
                self._capture = CudaCapture()
            if self._capture is not None:
                self._calls[key] = Recorded(self._calls[key], self._capture)
        return self._calls[key]


class CudaCapture:
    """Records functions of CUDA tensors as CUDA graphs, which run one after another and so share one pool of memory."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads prepare pictures meanwhile, and are no part of it.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            output = function()
        return output, graph.replay


class Recorded:
    """A function of tensors, recorded at its first call with each set of shapes and replayed in all calls.

    Each call copies its tensors into the recording's own inputs, replays it, and returns a copy of the output. Lists of
    tensors are not copied: pass the same ones in every call.
    """

    def __init__(self, function: Callable[..., Tensor], capture: Capture) -> None:
        self.function, self.capture = function, capture
        self._recordings: dict[Hashable, tuple[list[Any], Tensor, Callable[[], object]]] = {}

    def __call__(self, *given: Any) -> Tensor:
        shapes = tuple((each.shape, each.dtype) if isinstance(each, Tensor) else None for each in given)
        if shapes not in self._recordings:
            inputs = [each.clone() if isinstance(each, Tensor) else each for each in given]
            self._recordings[shapes] = inputs, *self.capture(partial(self.function, *inputs))
        inputs, output, replay = self._recordings[shapes]
        for mine, theirs in zip(inputs, given, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(theirs)
        replay()
        return output.clone()


def _tail(
    layers: list[nn.Module], through: Through, hidden: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor
) -> Tensor:
    for layer in layers:
        hidden = through(layer, hidden, mask, cos, sin)
    return hidden


def _without_index(layer: nn.Module) -> nn.Module:
    """The same layer, with the same weights, under no number of its own: a graph of one layer then fits all others."""
    attention: Any = getattr(layer, "self_attn", None)
    if not isinstance(attention, nn.Module) or not hasattr(attention, "layer_idx"):
        return layer
    same = copy(layer)
    its: Any = copy(attention)
    its.layer_idx = 0
    same._modules = {**layer._modules, "self_attn": its}
    return same


def _filled(values: Any, batch: int, rows: int) -> Any:
    """Rows up to `rows`, copies of the first, where values have one for each of the batch."""
    if values is None or len(values) != batch:
        return values
    return torch.cat([values, values[:1].expand(rows - batch, *values.shape[1:])])
