"""The one function that removes visual tokens from a prompt."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokensel.engine.deepstack import features_at, features_of, split_features, with_features
from tokensel.engine.layouts import Reduction
from tokensel.engine.source import StateSource
from tokensel.engine.stages import Stage
from tokensel.engine.state import State
from tokensel.engine.survivors import Survivors, beside, everything, in_place, together
from tokensel.errors import TokenselError
from tokensel.functional import counted_attention, counted_mean, cross_attention, take
from tokensel.methods import Context, Selection
from tokensel.models.parts import ModelParts


def reduce_state(state: State, stage: Stage, parts: ModelParts, multiple: int = 1) -> State:
    """Applies one stage to a prompt. Several pictures are reduced each by itself, `kept` shared in proportion; so are a
    video's frames with scope="frame".

    parts: the model's, for methods that use its layers. multiple: where the number that remains depends on the picture,
    rows are padded to a multiple of this, so that shapes repeat. Returns the reduced state; the state itself where
    there is nothing to do (kept >= N, no visual tokens, method "full").

    Raises TokenselError for a bad selection.
    """
    if stage.method.passes_through:
        return state
    if stage.position == "renumber" and state.position_ids.ndim == 3:
        # A picture along several axes takes fewer positions than it has tokens: there is nothing to close up.
        stage = replace(stage, position="source")
    count, original = state.visual_index.shape[1], sum(picture.original for picture in state.pictures)
    kept = stage.kept_of(original)
    if stage.stays(count, original):
        if kept > count > 0 and count == original:
            warnings.warn(f"kept={kept}: the image has {count} visual tokens; nothing is removed", stacklevel=2)
        return state
    state = (state.by_frame() if stage.scope == "frame" else state).together()
    survivors, left = _choose(state, stage, parts, kept, multiple)
    reduction = _lay_out(stage, state, survivors)
    return state.followed_by(
        hidden=reduction.hidden(state.hidden),
        attention_mask=reduction.key_mask(state.attention_mask, reduction.length),
        position_ids=reduction.position_ids(state.position_ids),
        visual_index=reduction.new_slots,
        pictures=tuple(replace(picture, count=each) for picture, each in zip(state.pictures, left, strict=True)),
        counts=survivors.counts,
        deepstack=reduction.deepstack,
        previous=None,
        prompt=state.prompt or (state if state.layer == 0 else None),
        vision=None,
        token_types=None if state.token_types is None else reduction.along(state.token_types),
        masked=state.masked or reduction.visible is not None,
        key_bias=reduction.key_bias(state.key_bias, reduction.length),
        weights=survivors.weights,
        positions=survivors.indices if state.positions is None else _entries(state.positions, survivors.indices),
        indices=_entries(state.visual_index if state.indices is None else state.indices, survivors.indices),
        reductions={**state.reductions, state.layer: reduction},
    )


def _entries(values: Tensor, indices: Tensor) -> Tensor:
    """values [B, N] at the indices: [B, M], and -1 where an index is -1."""
    return torch.where(indices < 0, -1, values.gather(1, indices.clamp_min(0)))


def share(kept: int, counts: Sequence[int]) -> list[int]:
    """`kept` tokens shared among pictures of `counts` tokens in proportion; of equal claims the earlier comes first."""
    total = sum(counts)
    shares = [kept * count // total for count in counts]
    by_claim = sorted(range(len(counts)), key=lambda index: -(kept * counts[index] % total))
    for index in by_claim[: kept - sum(shares)]:
        shares[index] += 1
    return shares


def _choose(state: State, stage: Stage, parts: ModelParts, kept: int, multiple: int) -> tuple[Survivors, Sequence[int]]:
    """The survivors, and how many of each picture there are: in the row with most of them."""
    groups = [(rows, _choose_alike(group, stage, parts, kept)) for rows, group in state.groups()]
    first = groups[0][1]
    if len(groups) == 1 and first.counts is None:
        return first, first.shares
    tokens = take(state.hidden, state.visual_index)
    survivors = together(groups, with_features(tokens, state.deepstack), multiple)
    assert survivors.counts is not None
    left = survivors.counts.amax(0).tolist()
    if survivors.indices.shape[1] == sum(left) and bool((survivors.counts == survivors.counts[:1]).all()):
        survivors = replace(survivors, counts=None)
    return survivors, left


def _choose_alike(state: State, stage: Stage, parts: ModelParts, kept: int) -> Survivors:
    """The survivors of rows whose pictures have equally many visual tokens."""
    counts = [picture.count for picture in state.pictures]
    original = sum(picture.original for picture in state.pictures)
    if stage.stays(sum(counts), original):  # these rows have few already; others have more
        stay = everything(len(state.hidden), counts, state.hidden.device)
        return replace(stay, weights=state.weights) if stage.weighs else stay
    # A choice must not hang on autocast's rounding; nor do methods' own products fit its dtypes.
    with torch.autocast(state.hidden.device.type, enabled=False):
        sources = [StateSource(state, picture, stage.method, parts) for picture in range(len(counts))]
        kept = min(kept, sum(counts)) if stage.auto else kept
        least = share(stage.auto.min, counts) if stage.auto else [0] * len(counts)
        chosen = [
            _reduce_picture(stage, source, *each)
            for source, *each in zip(sources, share(kept, counts), least, strict=True)
        ]
    return beside(chosen, counts)


def _reduce_picture(stage: Stage, source: StateSource, kept: int, least: int) -> Survivors:
    """What remains of one picture; indices are among its own visual tokens. least: how many, where the picture
    decides."""
    state = source.state
    batch, alone = len(state.hidden), len(state.pictures) == 1
    context = Context(
        kept=kept,
        count=source.visual_index.shape[1],
        layer=state.layer,
        row_keys=source.row_keys(),
        source=source,
        stage=stage.index,
        stages=stage.of,
        orders=state.orders.setdefault((source.picture, len(state.pictures)), {}),
        weights=source.weights,
        auto=stage.auto and replace(stage.auto, min=max(1, min(least, kept)), max=None),
    )
    decides = stage.method.decides_count() or (kept and stage.auto)
    if alone or 0 < kept < context.count or (context.count and decides):
        with torch.no_grad():
            selection = stage.select(context)
        if stage.auto:  # what follows costs more than waiting for the device
            selection = _narrowed(selection)
    else:  # of several pictures, one that keeps all or nothing
        selection = Selection(torch.arange(kept, device=state.hidden.device).expand(batch, -1))
    carried = with_features(context.tokens, source.deepstack)
    survivors = _survivors(stage, context, selection, carried)
    if survivors.values is None and not alone:  # what is written to one picture's places is written to all
        survivors = replace(survivors, values=take(carried, survivors.indices.clamp_min(0)))
    return survivors


def _narrowed(selection: Selection) -> Selection:
    """The selection without entries that are padding in every row."""
    assert selection.counts is not None
    return replace(selection, indices=selection.indices[:, : int(selection.counts.amax())])


def _survivors(stage: Stage, context: Context, selection: Selection, carried: Tensor) -> Survivors:
    """carried: the picture's tokens [B, N, D] with their deepstack features behind them; the survivors' values too."""
    values, counts, width = selection.values, selection.counts, context.tokens.shape[2]
    if values is not None:
        if stage.layout == "mask":
            raise TokenselError(f"layout='mask': method {stage.method.name!r} changes what the survivors carry")
        features = features_of(selection, split_features(carried, width)[1])
        values = with_features(values.to(context.tokens.dtype), features)
    counts = None if counts is None else counts.clamp(0, selection.indices.shape[1]).unsqueeze(1)
    chosen = Survivors(selection.indices, selection.indices, values, selection.sizes, counts)
    if stage.position == "source":
        chosen = in_place(chosen, carried)
    else:
        first = torch.arange(chosen.indices.shape[1], device=chosen.indices.device).expand_as(chosen.indices)
        chosen = replace(chosen, indices=chosen.indices.where(chosen.real, -1), places=first)
    moves = stage.position != "source" or stage.layout == "zero_fill"
    if chosen.values is not None or (stage.aggregation == "none" and not moves):
        return chosen
    # Padding repeats a row's first survivor, which then gathers what padding would.
    own = take(carried, chosen.indices.where(chosen.indices >= 0, chosen.indices[:, :1]).clamp_min(0))
    return _gather(stage, chosen, own, carried, width, context.weights)


def _gather(
    stage: Stage, chosen: Survivors, own: Tensor, carried: Tensor, width: int, weights: Tensor | None
) -> Survivors:
    """The survivors with what they carry; and how many tokens each stands for, where a later stage asks."""
    if stage.aggregation == "mean":
        values, counts = counted_mean(own, carried, width, weights)
        return replace(chosen, values=values, weights=counts if stage.weighs else None)
    if stage.learned is not None and stage.weighs:
        values, counts = stage.learned.counted(own, carried, width, weights, chosen.real)
        return replace(chosen, values=values, weights=counts)
    if stage.learned is not None:
        return replace(chosen, values=stage.learned(own, carried, width, weights))
    if stage.aggregation == "cross_attention" and stage.weighs:
        values, counts = counted_attention(own, carried, stage.temperature, width, weights, chosen.real)
        return replace(chosen, values=values, weights=counts)
    if stage.aggregation == "cross_attention":
        return replace(chosen, values=cross_attention(own, carried, stage.temperature, width, weights))
    return replace(chosen, values=own)


def _lay_out(stage: Stage, state: State, survivors: Survivors) -> Reduction:
    visual, length = state.visual_index, state.hidden.shape[1]
    slots = visual.gather(1, survivors.places)
    counts = None if survivors.counts is None else survivors.counts.sum(1)
    bias = None
    if survivors.sizes is not None:
        bias = torch.zeros_like(state.hidden[:, :, 0])
        bias = bias.scatter(1, slots, survivors.sizes.float().log().to(bias.dtype))
    values, features = survivors.values, features_at(state.deepstack, survivors.indices)
    if values is not None:
        values, features = split_features(values, state.hidden.shape[2])
    reduction = Reduction(length, slots, values, counts=counts, bias=bias, deepstack=features)
    if stage.layout == "zero_fill":
        erased = torch.zeros(len(visual), length, dtype=torch.bool, device=visual.device)
        return replace(reduction, erased=erased.scatter(1, visual, state.real))
    standing = torch.ones(len(visual), length, dtype=torch.bool, device=visual.device)
    standing = standing.scatter(1, visual, False).scatter(1, slots, survivors.real)
    if stage.layout == "mask":
        return replace(reduction, visible=standing)
    remaining = length - visual.shape[1] + slots.shape[1]
    rank = torch.where(standing, 1, 2).scatter(1, slots, survivors.real.long())  # padding first
    keep = rank.sort(dim=1, stable=True).indices[:, :remaining]
    visible = None if counts is None else standing
    return replace(reduction, keep=keep, visible=visible, renumbers=stage.position == "renumber")
