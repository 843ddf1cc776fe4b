"""The one function that removes visual tokens from a prompt."""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokensel.engine.layouts import Reduction
from tokensel.engine.source import StateSource
from tokensel.engine.stages import Stage
from tokensel.engine.state import State
from tokensel.errors import TokenselError
from tokensel.functional import cross_attention, nearest_mean, take
from tokensel.methods import Context, Selection
from tokensel.models.parts import ModelParts


@dataclass(frozen=True)
class _Survivors:
    """indices: LongTensor[B, M], which visual tokens remain, in the order in which they stand. values: [B, M, D] what
    they carry, None = their own. sizes: [B, M] what they weigh, None = 1."""

    indices: Tensor
    values: Tensor | None = None
    sizes: Tensor | None = None


def reduce_state(state: State, stage: Stage, parts: ModelParts) -> State:
    """Applies one stage to a prompt. Several pictures are reduced each by itself, `kept` shared in proportion.

    parts: the model's, for methods that use its layers. Returns the reduced state; the state itself where there is
    nothing to do (kept >= N, no visual tokens, method "full").

    Raises TokenselError for a bad selection.
    """
    if stage.method.passes_through:
        return state
    if stage.position == "renumber" and state.position_ids.ndim == 3:
        # A picture along several axes takes fewer positions than it has tokens: there is nothing to close up.
        stage = replace(stage, position="source")
    count, original = state.visual_index.shape[1], sum(picture.original for picture in state.pictures)
    kept = stage.kept_of(original)
    if kept >= count:
        if kept > count > 0 and count == original:
            warnings.warn(f"kept={kept}: the image has {count} visual tokens; nothing is removed", stacklevel=2)
        return state
    state = state.together()
    shares = share(kept, [picture.count for picture in state.pictures])
    # A choice must not hang on autocast's rounding; nor do methods' own products fit its dtypes.
    with torch.autocast(state.hidden.device.type, enabled=False):
        sources = [StateSource(state, picture, stage.method, parts) for picture in range(len(shares))]
        chosen = [_reduce_picture(stage, source, each) for source, each in zip(sources, shares, strict=True)]
    firsts = itertools.accumulate((picture.count for picture in state.pictures[:-1]), initial=0)
    positions = torch.cat([each.indices + first for each, first in zip(chosen, firsts, strict=True)], 1)
    if stage.position == "source":
        slots = state.visual_index.gather(1, positions)
    else:  # the first places of each picture
        slots = torch.cat([source.visual_index[:, :each] for source, each in zip(sources, shares, strict=True)], 1)
    values = [each.values for each in chosen if each.values is not None]
    reduction = _lay_out(stage, state, slots, torch.cat(values, 1) if values else None)
    sizes = [torch.ones_like(each.indices) if each.sizes is None else each.sizes for each in chosen]
    if any(each.sizes is not None for each in chosen):
        logs = torch.zeros_like(state.hidden[:, :, 0])
        logs = logs.scatter(1, slots, torch.cat(sizes, 1).float().log().to(logs.dtype))
        reduction = replace(reduction, bias=logs)
    indices = state.visual_index.gather(1, positions)
    return state.followed_by(
        hidden=reduction.hidden(state.hidden),
        attention_mask=reduction.key_mask(state.attention_mask, reduction.length),
        position_ids=reduction.position_ids(state.position_ids),
        visual_index=reduction.new_slots.sort(1).values,
        pictures=tuple(replace(each, count=left) for each, left in zip(state.pictures, shares, strict=True)),
        deepstack=tuple(take(each, positions) for each in state.deepstack),
        previous=None,
        prompt=state.prompt or (state if state.layer == 0 else None),
        vision=None,
        masked=state.masked or reduction.visible is not None,
        key_bias=reduction.key_bias(state.key_bias, reduction.length),
        positions=positions if state.positions is None else state.positions.gather(1, positions),
        indices=indices if state.indices is None else state.indices.gather(1, positions),
        reductions={**state.reductions, state.layer: reduction},
    )


def share(kept: int, counts: Sequence[int]) -> list[int]:
    """`kept` tokens shared among pictures of `counts` tokens in proportion; of equal claims the earlier comes first."""
    total = sum(counts)
    shares = [kept * count // total for count in counts]
    by_claim = sorted(range(len(counts)), key=lambda index: -(kept * counts[index] % total))
    for index in by_claim[: kept - sum(shares)]:
        shares[index] += 1
    return shares


def _reduce_picture(stage: Stage, source: StateSource, kept: int) -> _Survivors:
    """What remains of one picture; indices are among its own visual tokens."""
    state, method = source.state, stage.method
    batch, alone = len(state.hidden), len(state.pictures) == 1
    context = Context(
        kept=kept,
        count=source.visual_index.shape[1],
        layer=state.layer,
        row_keys=state.row_keys,
        source=source,
        stage=stage.index,
        stages=stage.of,
    )
    if alone or 0 < kept < context.count:
        with torch.no_grad():
            selection = method.select(context)
    else:  # of several pictures, one that keeps all or nothing
        selection = Selection(torch.arange(kept, device=state.hidden.device).expand(batch, -1))
    if selection.indices.shape != (batch, kept):
        raise TokenselError(
            f"method {method.name!r}: must choose [{batch}, {kept}] tokens, chose {list(selection.indices.shape)}"
        )
    survivors = _survivors(stage, context, selection)
    if survivors.values is None and not alone:  # what is written to one picture's places is written to all
        survivors = replace(survivors, values=take(context.tokens, survivors.indices))
    return survivors


def _survivors(stage: Stage, context: Context, selection: Selection) -> _Survivors:
    chosen = _Survivors(selection.indices, selection.values, selection.sizes)
    if chosen.values is not None:
        if stage.layout == "mask":
            raise TokenselError(f"layout='mask': method {stage.method.name!r} changes what the survivors carry")
        chosen = replace(chosen, values=chosen.values.to(context.tokens.dtype))
    if stage.position == "source":
        chosen = _each_in_its_place(context, chosen)
    moves = stage.position != "source" or stage.layout == "zero_fill"
    if chosen.values is not None or (stage.aggregation == "none" and not moves):
        return chosen
    own = take(context.tokens, chosen.indices)
    if stage.aggregation == "mean":
        return replace(chosen, values=nearest_mean(own, context.tokens))
    if stage.aggregation == "cross_attention":
        return replace(chosen, values=cross_attention(own, context.tokens, stage.temperature))
    return replace(chosen, values=own)


def _each_in_its_place(context: Context, chosen: _Survivors) -> _Survivors:
    """The survivors, ascending. A method may choose a token twice; two cannot stand in one place, so the lowest free
    one fills in, with its own state."""
    indices, values, sizes = chosen.indices, chosen.values, chosen.sizes
    taken = torch.zeros(len(indices), context.count, dtype=torch.uint8, device=indices.device).scatter(1, indices, 1)
    free_last = taken.sort(dim=1, descending=True, stable=True).indices
    distinct = free_last[:, : context.kept].sort(dim=1).values
    if values is None and sizes is None:
        return _Survivors(distinct)
    order = torch.full(taken.shape, -1, device=indices.device)
    order = order.scatter(1, indices, torch.arange(context.kept, device=indices.device).expand_as(indices))
    rank = order.gather(1, distinct)
    if values is not None:
        own = take(context.tokens, distinct)
        values = torch.where((rank < 0).unsqueeze(-1), own, take(values, rank.clamp_min(0)))
    if sizes is not None:
        sizes = torch.where(rank < 0, 1.0, sizes.float().gather(1, rank.clamp_min(0)))
    return _Survivors(distinct, values, sizes)


def _lay_out(stage: Stage, state: State, slots: Tensor, values: Tensor | None) -> Reduction:
    visual, length = state.visual_index, state.hidden.shape[1]
    if stage.layout == "zero_fill":
        return Reduction(length, slots, values, erased=visual)
    standing = torch.ones(len(visual), length, dtype=torch.bool, device=visual.device)
    standing = standing.scatter(1, visual, False).scatter(1, slots, True)
    if stage.layout == "mask":
        return Reduction(length, slots, values, visible=standing)
    remaining = length - visual.shape[1] + slots.shape[1]
    keep = (~standing).to(torch.uint8).sort(dim=1, stable=True).indices[:, :remaining]
    return Reduction(length, slots, values, keep=keep, renumbers=stage.position == "renumber")
