"""Decoder layers as compiled graphs, one for each shape that they meet; on CUDA a call of a span is one CUDA graph.

Shapes must repeat for that to pay: `SplitModel` rounds the length of the text up, kept settles the rest. A graph only
executes: what runs in it is a function that runs as well without.
"""

import warnings
from collections.abc import Callable
from copy import copy
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tokensel.engine.stock import LAYER_CACHE, find_cache

# The text's length is rounded up to a multiple of this.
TEXT_MULTIPLE = 32
# A graph for each method's length and text's length of a large grid; torch's own limit is 8.
MOST_GRAPHS = 256
# Buffers for each layer: one for each batch size and capacity. More, and they are made anew.
MOST_BUFFERS = 64
# Runs before a CUDA graph is recorded: kernels are built and chosen in them.
WARMUP = 3

# capture(function) -> (output, replay): records the function. Each replay() reads the function's tensors again and
# writes to the same output.
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], object]]]

# Not kept alive by its graphs, which hold the layers and not their list.
_graphs: WeakKeyDictionary[nn.ModuleList, "Graphs"] = WeakKeyDictionary()


def graphs_of(layers: nn.ModuleList, count: int) -> "Graphs":
    """The graphs of a decoder's first `count` layers; the same ones whenever they are asked for, so that they last."""
    if layers not in _graphs:
        _graphs[layers] = Graphs(list(layers)[:count])
    return _graphs[layers]


def through(layer: nn.Module, hidden: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor, memory: Any) -> Tensor:
    """hidden [B, T, D] through one layer. mask: what the layer's attention takes; cos, sin: [B or 1, T, d]. memory: the
    layer's part of a `FixedCache`, or None."""
    return layer(
        hidden,
        attention_mask=mask,
        position_ids=None,
        position_embeddings=(cos, sin),
        use_cache=memory is not None,
        **{LAYER_CACHE: memory},
    )


class CompiledLayer:
    """Stands in a decoder's list of layers. One graph of a layer serves all of them: built in seconds, however deep
    the decoder."""

    def __init__(self, graphs: "Graphs", index: int, layer: nn.Module) -> None:
        self.graphs, self.index, self.layer = graphs, index, _without_index(layer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(
        self,
        hidden: Tensor,
        *,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        **given: Any,
    ) -> Tensor:
        cache: Any = find_cache(given)
        return self.graphs.through(self.layer, hidden, attention_mask, *position_embeddings, cache.layer(self.index))


class Graphs:
    """Runs functions of decoder layers, compiled. Where that fails it says so once for each kind of function, and from
    then on runs those as they are.

    capture: records each function, which is replayed afterwards. None: CUDA graphs of layers on a GPU, and nothing is
    recorded elsewhere.
    """

    def __init__(self, layers: list[nn.Module], capture: Capture | None = None) -> None:
        self.layers = [CompiledLayer(self, index, layer) for index, layer in enumerate(layers)]
        self.failed: dict[str, str] = {}  # kinds of functions, and why
        self._recordings: dict[tuple[Any, ...], tuple[list[Any], Tensor, Callable[[], object]]] = {}
        self._buffers: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self._capture = capture

    @cached_property
    def through(self) -> Callable[..., Tensor]:
        return torch.compile(through, fullgraph=True, dynamic=False)

    def call(self, key: tuple[Any, ...], function: Callable[..., Any], *given: Any) -> Any:
        """function(layers, *given), where layers are compiled, or None: the decoder's own. given: tensors, None, and
        dataclasses of such that pytree knows.

        key: identifies the function, with all that it reads besides what it is given; key[0] is its kind. It may run
        several times. Returns a tensor that nothing writes to later.
        """
        with torch.inference_mode(False), torch.no_grad():  # compiled code does not keep inference mode's books
            if key[0] not in self.failed:
                try:
                    most = {"recompile_limit": MOST_GRAPHS, "accumulated_recompile_limit": 8 * MOST_GRAPHS}
                    with torch._dynamo.config.patch(most):
                        return self._recorded(key, partial(function, self.layers), *given)
                except Exception as error:  # no C++ compiler, an attention that cannot be traced, ...
                    said = (str(error).splitlines() or [""])[0]
                    self.go_without(key[0], f"{type(error).__name__}: {said}")
            return function(None, *given)

    def go_without(self, kind: str, why: str) -> None:
        """Notes, and says, that this kind of work is not compiled."""
        if kind not in self.failed:
            self.failed[kind] = why
            warnings.warn(f"compile=true: not compiled: {kind}, {why}", stacklevel=4)

    def buffers(self, layer: int, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer: the same ones whenever that shape is asked for, with whatever they last held."""
        key = (layer, shape, like.dtype, like.device)
        if key not in self._buffers:
            with torch.inference_mode(False):
                made = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2)]
            self._buffers[key] = (made[0], made[1])
        return self._buffers[key]

    def drop_buffers(self) -> None:
        """Where there are many, drops all buffers, and the graphs that hold them. Not while a prompt is in them."""
        if len(self._buffers) >= MOST_BUFFERS * len(self.layers):
            self._buffers.clear()
            self._recordings = {
                key: each for key, each in self._recordings.items() if key[0] not in ("prefill", "step")
            }

    def _recorded(self, key: tuple[Any, ...], function: Callable[..., Any], *given: Any) -> Any:
        """function(*given), recorded at its first call with each set of shapes and replayed in all calls: these copy
        what they are given into the recording's own inputs. No function is kept, which would keep the model alive."""
        if self._capture is None and next(self.layers[0].parameters()).is_cuda:
            self._capture = CudaCapture()
        if self._capture is None:
            return function(*given)
        leaves, structure = tree_flatten(given)
        shapes = ((each.shape, each.dtype) if isinstance(each, Tensor) else each for each in leaves)
        key = (*key, *shapes)
        if key not in self._recordings:
            inputs = [each.clone() if isinstance(each, Tensor) else each for each in leaves]
            self._recordings[key] = inputs, *self._capture(partial(function, *tree_unflatten(inputs, structure)))
        inputs, output, replay = self._recordings[key]
        for mine, theirs in zip(inputs, leaves, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(theirs)
        replay()
        return output.clone()


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
