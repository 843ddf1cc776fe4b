"""The one place that calls a decoder: its own forward, over some of its layers.

A view of the decoder has a slice of its layers and nothing else of its own, and sees the KV cache as if the slice began
with layer 0. Masks, sliding windows and rotary embeddings are therefore the model's own, whatever its family.
"""

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutput

from tokensel.engine.caches import FixedCache, ReducedCache
from tokensel.engine.state import fill_rows
from tokensel.engine.stock import cache_argument
from tokensel.models.parts import ModelParts


def run_span(
    parts: ModelParts,
    first: int,
    last: int,
    hidden: Tensor,
    *,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    cache: Cache | FixedCache | None = None,
    token_types: Tensor | None = None,
    normed: bool = False,
    layers: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """hidden [B, T, D] through decoder layers first .. last - 1: the stock forward's output.

    attention_mask: [B, keys] or None, or 4-D as the layers take it. position_ids: [B or 1, T], or [axes, B or 1, T].
    cache: what the layers remember, changed in place. token_types: LongTensor[B, T] of a prompt, where the family makes
    its masks of them. normed: with the decoder's final norm. layers: the decoder's
    layers, or what stands in place of them. options: of the stock forward.
    """
    decoder = parts.decoder
    forward = type(decoder).forward
    view = _view(decoder, first, last, normed, decoder.layers if layers is None else layers)
    position_ids = position_ids.to(hidden.device)
    mask: Any = None if attention_mask is None else attention_mask.to(hidden.device)
    seen: dict[str, Any] = {cache_argument(forward): None if cache is None else cache_view(cache, first)}
    if token_types is not None:
        mask = parts.family.masks(view.config, hidden, mask, position_ids, token_types.to(hidden.device), seen)
    return forward(
        view,
        inputs_embeds=hidden,
        attention_mask=mask,
        position_ids=position_ids,
        use_cache=cache is not None,
        **seen,
        **options,
    )


def run_compiled(
    parts: ModelParts,
    first: int,
    last: int,
    hidden: Tensor,
    *,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    cache: FixedCache,
) -> Any:
    """`run_span` for a prompt that enters a cache of a fixed size, as one compiled graph. attention_mask: 4-D."""
    batch = len(hidden)
    fill = partial(fill_rows, batch=batch, rows=cache.rows)
    mask = None if attention_mask is None else fill(attention_mask)
    cache.reserve(parts, first, last, hidden)

    def span(layers: Sequence[Any] | None, hidden: Tensor, mask: Tensor | None, position_ids: Tensor) -> Tensor:
        output = run_span(
            parts, first, last, hidden, attention_mask=mask, position_ids=position_ids, cache=cache, layers=layers
        )
        return output.last_hidden_state

    key = ("tail" if cache.room is None else "prefill", first, last, cache.key[first:])
    hidden = cache.graphs.call(key, span, fill(hidden), mask, fill(position_ids, dim=-2))
    return BaseModelOutput(last_hidden_state=hidden[:batch])


def _view(decoder: Any, first: int, last: int, normed: bool, layers: Sequence[Any]) -> Any:
    """The decoder with layers first .. last - 1 alone, sharing all that it has."""
    view, config = copy(decoder), copy(decoder.config)
    vars(config)["num_hidden_layers"] = last - first
    if getattr(config, "layer_types", None):
        vars(config)["layer_types"] = config.layer_types[first:last]
    vars(view)["config"] = config
    vars(view)["layers"] = list(layers)[first:last]
    # Hooks that record outputs are on the layers, which the view shares: they must not be installed twice.
    vars(view)["_output_capturing_hooks_installed"] = True
    view._modules = {name: module for name, module in decoder._modules.items() if name != "layers"}
    if not normed:
        view._modules["norm"] = nn.Identity()
    return view


def cache_view(cache: Cache | FixedCache, first: int) -> Cache | FixedCache:
    """The cache as layers from `first` on see it. A mask is sized by the cache of the first layer of its kind, so that
    layer's stands for all before it."""
    if isinstance(cache, FixedCache):
        return cache
    view = copy(cache)
    if isinstance(cache, ReducedCache):
        view.__class__ = cache.stock
        del view.plan
    view.layers = [cache.layers[first]] * first + cache.layers[first:]
    return view
