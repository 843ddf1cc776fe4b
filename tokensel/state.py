"""A prompt on its way through the decoder, and the one function that reduces it."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from tokensel.attention import last_query_attention
from tokensel.errors import TokenselError
from tokensel.functional import cross_attention, nearest_mean, take
from tokensel.layouts import Reduction
from tokensel.methods import Context, Selection
from tokensel.stages import Stage

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class State:
    """Hidden states about to enter decoder layer `layer`, with everything laid out along them.

    hidden: [B, T, D]. attention_mask: BoolTensor[B, T], False = never attended to; None = all real.
    position_ids: LongTensor[B, T]. visual_mask: BoolTensor[B, T], the visual tokens still there.
    rotary: cos and sin [B or 1, T, d]. previous: the hidden states that entered layer - 1, if that layer saw this
    same sequence. row_keys: LongTensor[B], the key of each row's question.
    positions, indices: LongTensor[B, M], the survivors of the last reduction in the order they now stand: relative
    to the image, and in the original sequence; None before any reduction.
    """

    hidden: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    visual_mask: Tensor
    row_keys: Tensor
    layer: int = 0
    rotary: Rotary | None = None
    previous: Tensor | None = None
    positions: Tensor | None = None
    indices: Tensor | None = None

    @cached_property
    def visual_index(self) -> Tensor:
        """Where the visual tokens are, ascending: LongTensor[B, N]. Waits for the device once: N sets the shapes.

        Raises TokenselError when the rows hold different numbers of visual tokens.
        """
        batch = self.visual_mask.shape[0]
        places = self.visual_mask.nonzero()
        index = places[: len(places) - len(places) % batch, 1].view(batch, -1)
        expected = torch.arange(batch, device=places.device).repeat_interleave(index.shape[1])
        if len(places) % batch or not torch.equal(places[:, 0], expected):
            counts = self.visual_mask.sum(1).tolist()
            raise TokenselError(f"visual tokens per row {counts}: every row of a batch must hold equally many")
        return index


def reduce_state(state: State, stage: Stage, layer: nn.Module | None) -> tuple[State, Reduction | None]:
    """Applies one stage: the only place where visual tokens leave, for the hooks and the split model alike.

    layer: decoder layer stage.layer - 1, for methods that look at its attention. Returns the reduced state and what
    was done; (the state itself, None) where there is nothing to do (kept >= N, no visual tokens, method "full").

    Raises TokenselError for rows with different numbers of visual tokens, or a bad selection.
    """
    if stage.method.passes_through:
        return state, None
    count, kept = state.visual_index.shape[1], stage.kept
    assert kept is not None
    if kept >= count:
        if kept > count > 0:
            warnings.warn(
                f"kept={kept}: the image has {count} visual tokens; nothing is removed",
                stacklevel=2,
            )
        return state, None
    context = _context(state, stage, kept, layer)
    selection = stage.method.select(context)
    if selection.indices.shape != (state.hidden.shape[0], kept):
        raise TokenselError(
            f"method {stage.method.name!r}: must choose [{state.hidden.shape[0]}, {kept}] tokens, "
            f"chose {list(selection.indices.shape)}"
        )
    places, values = _survivors(stage, context, selection)
    reduction = _lay_out(stage, state, places, values)
    standing = torch.zeros_like(state.visual_mask).scatter(1, reduction.slots, True)
    positions = places if state.positions is None else state.positions.gather(1, places)
    chosen = state.visual_index.gather(1, places)
    reduced = replace(
        state,
        hidden=reduction.hidden(state.hidden),
        attention_mask=reduction.key_mask(state.attention_mask, reduction.length),
        position_ids=reduction.along(state.position_ids),
        visual_mask=reduction.along(standing),
        rotary=None if state.rotary is None else _along_rotary(reduction, state.rotary),
        previous=None,
        positions=positions,
        indices=chosen if state.indices is None else state.indices.gather(1, places),
    )
    return reduced, reduction


def _along_rotary(reduction: Reduction, rotary: Rotary) -> Rotary:
    return reduction.along(rotary[0]), reduction.along(rotary[1])


def _context(state: State, stage: Stage, kept: int, layer: nn.Module | None) -> Context:
    def attention() -> Tensor:
        assert layer is not None
        assert state.previous is not None
        assert state.rotary is not None
        with torch.no_grad():
            return last_query_attention(
                layer,
                state.previous,
                state.rotary,
                state.attention_mask,
                state.visual_index,
            )

    return Context(
        kept=kept,
        count=state.visual_index.shape[1],
        layer=state.layer,
        row_keys=state.row_keys,
        tokens=lambda: take(state.hidden, state.visual_index),
        last_query_attention=attention if state.layer > 0 else None,
    )


def _survivors(stage: Stage, context: Context, selection: Selection) -> tuple[Tensor, Tensor | None]:
    """Which visual tokens stand where afterwards, in order, and what they carry (None = their own)."""
    places, values = selection.indices, selection.values
    if values is not None:
        values = values.to(context.tokens.dtype)
    if stage.position == "source":
        # A method may choose one token twice; two survivors cannot stand in one place, so the lowest free one fills in.
        taken = torch.zeros(len(places), context.count, dtype=torch.uint8, device=places.device)
        taken = taken.scatter(1, places, 1)
        free_last = taken.sort(dim=1, descending=True, stable=True).indices
        distinct = free_last[:, : context.kept].sort(dim=1).values
        if values is not None:
            order = torch.full(taken.shape, -1, device=places.device)
            order = order.scatter(
                1,
                places,
                torch.arange(context.kept, device=places.device).expand_as(places),
            )
            rank = order.gather(1, distinct)
            own = take(context.tokens, distinct)
            values = torch.where((rank < 0).unsqueeze(-1), own, take(values, rank.clamp_min(0)))
        places = distinct
    if values is None and stage.aggregation != "none":
        queries = take(context.tokens, places)
        if stage.aggregation == "mean":
            return places, nearest_mean(queries, context.tokens)
        return places, cross_attention(queries, context.tokens, stage.temperature)
    if values is None and (stage.position == "front" or stage.layout == "zero_fill"):
        values = take(context.tokens, places)
    return places, values


def _lay_out(stage: Stage, state: State, places: Tensor, values: Tensor | None) -> Reduction:
    visual = state.visual_index
    slots = visual[:, : places.shape[1]] if stage.position == "front" else visual.gather(1, places)
    length = state.hidden.shape[1]
    if stage.layout == "zero_fill":
        return Reduction(length, slots, values, erased=visual)
    standing = (~state.visual_mask).scatter(1, slots, True)
    if stage.layout == "mask":
        return Reduction(length, slots, values, visible=standing)
    remaining = length - visual.shape[1] + slots.shape[1]
    keep = (~standing).to(torch.uint8).sort(dim=1, stable=True).indices[:, :remaining]
    return Reduction(length, slots, values, keep=keep)
