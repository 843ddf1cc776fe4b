"""The reduced forward: a prompt through all layers with stages on the way, and whatever follows it.

Users of it: `reduce_tokens` inside a model's own forward, and `SplitModel` piece by piece. Over a cache of a fixed size
the same spans run as compiled graphs.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from tokensel.engine.caches import FixedCache, Plan
from tokensel.engine.deepstack import deepstack_arguments, needed_from
from tokensel.engine.selection import reduce_state
from tokensel.engine.spans import run_compiled, run_span
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, layer_mask
from tokensel.models.parts import ModelParts

# Outputs of the stock forward, one for each span.
Outputs = list[Any]


def advance(parts: ModelParts, state: State, upto: int, outputs: Outputs | None = None, **options: Any) -> State:
    """The state about to enter layer `upto`. outputs: gets the span's output. options: of `run_span`."""
    run: Callable[..., Any] = run_compiled if isinstance(state.cache, FixedCache) else run_span
    output = run(
        parts,
        state.layer,
        upto,
        state.hidden,
        attention_mask=state.mask(parts),
        position_ids=state.position_ids,
        cache=state.cache,
        **state.extras(),
        **options,
    )
    if outputs is not None:
        outputs.append(output)
    prompt = state if state.layer == 0 and state.prompt is None else state.prompt
    return state.followed_by(
        hidden=output.last_hidden_state,
        previous=None,
        prompt=prompt,
        layer=upto,
        deepstack=needed_from(state.deepstack, upto),
    )


def approach(
    parts: ModelParts,
    state: State,
    upto: int,
    outputs: Outputs | None = None,
    keeps_previous: bool = True,
    **options: Any,
) -> State:
    """`advance` to a stage; keeps_previous: what enters the layer before it is kept, for methods that use attention."""
    if upto == state.layer:
        return state
    if not keeps_previous:
        return advance(parts, state, upto, outputs, **options)
    if upto - 1 > state.layer:
        state = advance(parts, state, upto - 1, outputs, **options)
    return replace(advance(parts, state, upto, outputs, **options), previous=state.hidden)


def reduce_all(
    parts: ModelParts,
    state: State,
    stages: Iterable[Stage],
    outputs: Outputs | None = None,
    multiple: int = 1,
    **options: Any,
) -> State:
    """Applies stages one after the other, running the layers between them; ends behind the last one. multiple: see
    `reduce_state`."""
    for stage in stages:
        if stage.acts(parts.num_layers):
            state = approach(parts, state, stage.layer, outputs, stage.method.uses_attention, **options)
            state = reduce_state(state, stage, parts, multiple)
    return state


def resume(
    parts: ModelParts,
    plan: Plan,
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    cache: Cache | FixedCache | None = None,
    outputs: Outputs | None = None,
    prompt: State | None = None,
    **options: Any,
) -> Tensor:
    """What follows a reduced prompt, through all layers and the final norm: [B, T, D] -> [B, T, D].

    hidden: the embeddings of the new tokens, where a cache holds the rest; without one, of the whole sequence.
    attention_mask: [B, keys] of the whole sequence before any reduction, None = all real; over a cache of a fixed size,
    of all that it has room for. position_ids: of `hidden`. prompt: as it entered the first layer, where that prompt is
    computed anew.
    """
    whole = cache is None
    features, visual_index = (None, None) if prompt is None else (prompt.deepstack, prompt.visual_index)
    types = None if prompt is None else prompt.token_types
    if types is not None:
        types = nn.functional.pad(types, (0, hidden.shape[1] - types.shape[1]))
    if attention_mask is not None:
        keys = attention_mask.shape[1]
    else:
        keys = hidden.shape[1] if cache is None else int(cache.get_seq_length()) + hidden.shape[1]
    bias: Tensor | None = None
    for first, last in itertools.pairwise(sorted({0, *plan.reductions, parts.num_layers})):
        reduction = plan.reductions.get(first)
        if reduction is not None:
            if whole:
                hidden = reduction.hidden(hidden)
                features, visual_index = reduction.deepstack, reduction.new_slots
                types = None if types is None else reduction.along(types)
            attention_mask = reduction.key_mask(attention_mask, keys)
            position_ids = reduction.position_ids(position_ids, later=not whole)
            bias = reduction.key_bias(bias, keys)
            keys -= reduction.removed
            if whole and attention_mask is None:  # see State.mask
                attention_mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        mask, places = attention_mask, cache.capacity(first) if isinstance(cache, FixedCache) else keys
        if bias is not None or isinstance(cache, FixedCache):
            mask = layer_mask(parts, hidden, places, mask, bias)
        added = {}
        if whole and visual_index is not None:
            added = deepstack_arguments(features, visual_index, first, hidden.shape[1])
        output = run_span(
            parts,
            first,
            last,
            hidden,
            attention_mask=mask,
            position_ids=position_ids,
            cache=cache,
            token_types=types,
            normed=last == parts.num_layers,
            **added,
            **options,
        )
        hidden = output.last_hidden_state
        if outputs is not None:
            outputs.append(output)
    return hidden
