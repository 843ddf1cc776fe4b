"""KV caches that remember how their prompt was reduced, so that whoever continues them can do the same; and caches of
a fixed size, for compiled graphs."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import register_dataclass
from transformers import Cache, DynamicCache, StaticCache

from tokensel.engine.compiled import Graphs
from tokensel.engine.layouts import Reduction
from tokensel.errors import TokenselError
from tokensel.models.parts import ModelParts

# Places for keys in a cache of a fixed size are a multiple of this, so that prompts of about one length share graphs.
CAPACITY_MULTIPLE = 64


@dataclass
class Plan:
    """What was done to one batch of prompts, and is done again to whatever follows them.

    length: tokens of the prompt, before any reduction. reductions: by decoder layer; each acts on what the ones before
    it left.
    """

    length: int
    reductions: Mapping[int, Reduction]

    def rows(self, order: Tensor) -> "Plan":
        """The plan of rows `order`, LongTensor[B']."""
        return replace(self, reductions={layer: each.rows(order) for layer, each in self.reductions.items()})

    def without_values(self) -> "Plan":
        """All that decoding with a cache needs: not what the survivors carry."""
        return replace(
            self,
            reductions={layer: replace(each, values=None, deepstack=None) for layer, each in self.reductions.items()},
        )

    @property
    def batch(self) -> int:
        return len(next(iter(self.reductions.values())).slots)


# As arguments of compiled graphs: their tensors are those that a recording reads.
register_dataclass(Reduction)
register_dataclass(Plan)


class ReducedCache(Cache):
    """A cache whose layers hold fewer tokens from some layer on. `get_seq_length` without a layer counts the tokens
    that were read, as if none had been removed: positions and the length of later prompts follow from that.

    It works under `reduce_tokens` only: the stock forward would size its masks wrongly, so `update` refuses.
    """

    stock: ClassVar[type[Cache]]
    plan: Plan

    def update(self, *args: Any, **kwargs: Any) -> Any:
        raise TokenselError(
            f"past_key_values={self.stock.__name__}: holds a prompt that reduce_tokens shortened; continue it inside "
            "a reduce_tokens block of this model"
        )

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        if layer_idx is not None:
            return super().get_seq_length(layer_idx)
        first = self.plan.reductions.get(0)
        return super().get_seq_length(0) + (first.removed if first else 0)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length()  # generate's own masks for static caches are those of the whole sequence

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        if self.is_sliding[layer_idx]:  # the window ends with the queries, which the offset above counts
            offset = max(offset, int(self.get_query_offset()) + query_length - length)
        return length, offset

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last -tokens_to_remove tokens; a positive number is the length that remains."""
        length = int(self.get_seq_length())
        remaining = tokens_to_remove if tokens_to_remove > 0 else length + tokens_to_remove
        if remaining < self.plan.length:
            raise TokenselError(
                f"past_key_values: cannot be cropped to {remaining} tokens; its reduced prompt has {self.plan.length}"
            )
        super().crop(min(remaining - length, 0))

    def reset(self) -> None:
        super().reset()
        self.__class__ = self.stock
        del self.plan

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.plan = self.plan.rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.plan = self.plan.rows(torch.arange(self.plan.batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.plan = self.plan.rows(torch.arange(self.plan.batch)[indices.cpu()])


class ReducedDynamicCache(ReducedCache, DynamicCache):
    stock = DynamicCache


class ReducedStaticCache(ReducedCache, StaticCache):
    stock = StaticCache


_REDUCED: dict[type[Cache], type[ReducedCache]] = {
    kind.stock: kind for kind in (ReducedDynamicCache, ReducedStaticCache)
}


def prepare_cache(cache: Cache, depth: int) -> Cache:
    """The cache, ready for spans: where its layers come one by one, all of them are made.

    Raises TokenselError for a kind of cache that no reduced form is known of.
    """
    if type(cache) not in _REDUCED:
        known = ", ".join(kind.__name__ for kind in _REDUCED)
        raise TokenselError(f"past_key_values={type(cache).__name__}: cannot be reduced; allowed are {known}")
    if cache.layer_class_to_replicate is not None:
        cache.layers += [cache.layer_class_to_replicate() for _ in range(depth - len(cache.layers))]
    return cache


def new_cache(parts: ModelParts) -> Cache:
    """An empty cache for all layers of a decoder."""
    return DynamicCache(config=parts.decoder.config)


def remember(cache: Cache, plan: Plan) -> None:
    """Turns the cache of a reduced prompt into one that carries the plan, in place."""
    cache.__class__ = _REDUCED[type(cache)]
    cache.plan = plan.without_values()


@dataclass
class FixedLayer:
    """What one decoder layer remembers, in buffers [B, heads, capacity, d].

    length: tokens of the prompt. where: LongTensor[1], the place of the one new token, which attends to the whole
    buffer, so that a mask must hide what is empty; None: a prompt enters, fills the first places and attends to itself.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    where: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, *more: Any, **given: Any) -> tuple[Tensor, Tensor]:
        """What transformers' caches do: stores key and value [B, heads, T, d], and gives those to attend to."""
        if self.where is None:
            self.keys[:, :, : key.shape[2]].copy_(key)
            self.values[:, :, : value.shape[2]].copy_(value)
            return key, value
        self.keys.index_copy_(2, self.where, key)
        self.values.index_copy_(2, self.where, value)
        return self.keys, self.values


class FixedCache:
    """A cache over the buffers of a decoder's graphs: what runs over it, runs compiled. Layers fill it span by span.

    All prompts of about one length share the buffers, so one prompt is decoded at a time; after it another grid point
    of the same prompt, or another prompt. rows: the batch size of the graphs; smaller batches are filled up. room:
    tokens that may follow the prompt; None: nothing is remembered.
    """

    def __init__(self, graphs: Graphs, rows: int, room: int | None = None) -> None:
        self.graphs, self.rows, self.room = graphs, rows, room
        self.layers: list[FixedLayer] = []
        self.places: dict[int, Tensor] = {}  # where the new token stands behind a prompt of each length

    def reserve(self, parts: ModelParts, first: int, last: int, like: Tensor) -> None:
        """Buffers in layers first .. last - 1 for a prompt of hidden states like [B, T, D] and what may follow it."""
        if self.room is None:
            return
        length, config = like.shape[1], parts.decoder.config
        capacity = -(-(length + self.room) // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        del self.layers[first:]
        for index in range(first, last):
            attention: Any = parts.layers[index].self_attn
            shape = (self.rows, config.num_key_value_heads, capacity, attention.head_dim)
            self.layers.append(FixedLayer(*self.graphs.buffers(index, shape, like), length))

    @property
    def key(self) -> tuple[int, ...]:
        """Identifies the buffers."""
        return tuple(id(layer.keys) for layer in self.layers)

    def capacity(self, layer: int) -> int:
        return self.layers[layer].keys.shape[2]

    def at(self, index: Tensor) -> "FixedCache":
        """The cache for the answer's index-th token, LongTensor[1]."""
        view = copy(self)
        view.places = {length: index + length for length in {layer.length for layer in self.layers}}
        return view

    def layer(self, index: int) -> FixedLayer | None:
        """What a decoder layer is to update now."""
        if not self.layers:
            return None
        layer = self.layers[index]
        return replace(layer, where=self.places.get(layer.length))

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *more: Any, **given: Any) -> tuple[Tensor, Tensor]:
        layer = self.layer(layer_idx)
        return (key, value) if layer is None else layer.update(key, value)

    # For masks, which the stock forward makes of prompts alone.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0


def fork(cache: Any) -> Any:
    """The same keys and values, of which either may grow without the other: dynamic caches, and fixed ones one after
    the other."""
    other = copy(cache)
    other.layers = [copy(layer) for layer in cache.layers]
    return other
