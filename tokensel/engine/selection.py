"""The one function that removes visual tokens from a prompt."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

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

# Which visual tokens stand where afterwards, in order [B, M]; what they carry [B, M, D] and weigh [B, M], None = 1.
Survivors = tuple[Tensor, Tensor | None, Tensor | None]


def reduce_state(state: State, stage: Stage, parts: ModelParts) -> tuple[State, Reduction | None]:
    """Applies one stage to a prompt. Several pictures are reduced each by itself, `kept` shared in proportion.

    parts: the model's, for methods that look at its layers. Returns the reduced state and what was done; (the state
    itself, None) where there is nothing to do (kept >= N, no visual tokens, method "full").

    Raises TokenselError for a bad selection.
    """
    if stage.method.passes_through:
        return state, None
    if stage.position == "renumber" and state.position_ids.ndim == 3:
        # A picture along several axes takes fewer positions than it has tokens: there is nothing to close up.
        stage = replace(stage, position="source")
    count, original = state.visual_index.shape[1], sum(picture.original for picture in state.pictures)
    kept = stage.kept_of(original)
    if kept >= count:
        if kept > count > 0 and count == original:
            warnings.warn(f"kept={kept}: the image has {count} visual tokens; nothing is removed", stacklevel=2)
        return state, None
    state = state.together()
    shares = share(kept, [picture.count for picture in state.pictures])
    # A choice must not hang on autocast's rounding; nor do methods' own products fit its dtypes.
    with torch.autocast(state.hidden.device.type, enabled=False):
        chosen = [_reduce_picture(state, stage, parts, picture, each) for picture, each in enumerate(shares)]
    positions, slots = (torch.cat([each[place] for each in chosen], 1) for place in (0, 1))
    values = [each[2] for each in chosen if each[2] is not None]
    reduction = _lay_out(stage, state, slots, torch.cat(values, 1) if values else None)
    if any(each[3] is not None for each in chosen):
        sizes = [torch.ones(each[0].shape, device=slots.device) if each[3] is None else each[3] for each in chosen]
        logs = torch.zeros_like(state.hidden[:, :, 0])
        logs = logs.scatter(1, slots, torch.cat(sizes, 1).float().log().to(logs.dtype))
        reduction = replace(reduction, bias=logs)
    indices = state.visual_index.gather(1, positions)
    reduced = state.followed_by(
        hidden=reduction.hidden(state.hidden),
        attention_mask=reduction.key_mask(state.attention_mask, reduction.length),
        position_ids=reduction.position_ids(state.position_ids),
        visual_index=reduction.new_slots.sort(1).values,
        pictures=tuple(replace(each, count=left) for each, left in zip(state.pictures, shares, strict=True)),
        previous=None,
        prompt=state.prompt or (state if state.layer == 0 else None),
        vision=None,
        masked=state.masked or reduction.visible is not None,
        key_bias=reduction.key_bias(state.key_bias, reduction.length),
        positions=positions if state.positions is None else state.positions.gather(1, positions),
        indices=indices if state.indices is None else state.indices.gather(1, positions),
    )
    return reduced, reduction


def share(kept: int, counts: Sequence[int]) -> list[int]:
    """`kept` tokens shared among pictures of `counts` tokens in proportion; of equal claims the earlier comes first."""
    total = sum(counts)
    shares = [kept * count // total for count in counts]
    by_claim = sorted(range(len(counts)), key=lambda index: -(kept * counts[index] % total))
    for index in by_claim[: kept - sum(shares)]:
        shares[index] += 1
    return shares


def _reduce_picture(
    state: State, stage: Stage, parts: ModelParts, picture: int, kept: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One picture's survivors: among the row's visual tokens, and their slots in the sequence, LongTensor[B, M] both;
    values and sizes as in `Survivors`."""
    method, source = stage.method, StateSource(state, picture, stage.method, parts)
    visual, batch = source.visual_index, len(state.hidden)
    context = Context(
        kept=kept,
        count=visual.shape[1],
        layer=state.layer,
        row_keys=state.row_keys,
        source=source,
        stage=stage.index,
        stages=stage.of,
    )
    if 0 < kept < context.count or len(state.pictures) == 1:
        with torch.no_grad():
            selection = method.select(context)
    else:  # of several pictures, one that keeps all or nothing
        selection = Selection(torch.arange(kept, device=visual.device).expand(batch, -1))
    if selection.indices.shape != (batch, kept):
        raise TokenselError(
            f"method {method.name!r}: must choose [{batch}, {kept}] tokens, chose {list(selection.indices.shape)}"
        )
    indices, values, sizes = _survivors(stage, context, selection)
    slots = visual.gather(1, indices) if stage.position == "source" else visual[:, :kept]
    first = sum(each.count for each in state.pictures[:picture])
    if len(state.pictures) > 1:  # what one picture changes, another may keep
        values = take(context.tokens, indices) if values is None else values
    return indices + first, slots, values, sizes


def _survivors(stage: Stage, context: Context, selection: Selection) -> Survivors:
    chosen, values, sizes = selection.indices, selection.values, selection.sizes
    if values is not None:
        if stage.layout == "mask":
            raise TokenselError(f"layout='mask': method {stage.method.name!r} changes what the survivors carry")
        values = values.to(context.tokens.dtype)
    if stage.position == "source":
        chosen, values, sizes = _each_in_its_place(context, Selection(chosen, values, sizes))
    if values is None and stage.aggregation != "none":
        queries = take(context.tokens, chosen)
        if stage.aggregation == "mean":
            return chosen, nearest_mean(queries, context.tokens), sizes
        return chosen, cross_attention(queries, context.tokens, stage.temperature), sizes
    if values is None and (stage.position != "source" or stage.layout == "zero_fill"):
        values = take(context.tokens, chosen)
    return chosen, values, sizes


def _each_in_its_place(context: Context, selection: Selection) -> Survivors:
    """The chosen tokens, ascending. A method may choose one twice; two survivors cannot stand in one place, so the
    lowest free one fills in, with its own state."""
    chosen, values, sizes = selection.indices, selection.values, selection.sizes
    taken = torch.zeros(len(chosen), context.count, dtype=torch.uint8, device=chosen.device).scatter(1, chosen, 1)
    free_last = taken.sort(dim=1, descending=True, stable=True).indices
    distinct = free_last[:, : context.kept].sort(dim=1).values
    if values is None and sizes is None:
        return distinct, None, None
    order = torch.full(taken.shape, -1, device=chosen.device)
    order = order.scatter(1, chosen, torch.arange(context.kept, device=chosen.device).expand_as(chosen))
    rank = order.gather(1, distinct)
    if values is not None:
        own = take(context.tokens, distinct)
        values = torch.where((rank < 0).unsqueeze(-1), own, take(values, rank.clamp_min(0)))
    if sizes is not None:
        sizes = torch.where(rank < 0, 1.0, sizes.float().gather(1, rank.clamp_min(0)))
    return distinct, values, sizes


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
