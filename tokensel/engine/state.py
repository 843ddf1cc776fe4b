"""A prompt on its way through the decoder, and the one function that reduces it."""

import math
import warnings
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tokensel.engine.attention import attention_to_visual, last_real, layer_keys
from tokensel.engine.layouts import Reduction
from tokensel.engine.stages import Stage
from tokensel.errors import TokenselError
from tokensel.functional import cross_attention, nearest_mean, take
from tokensel.methods import Context, Selection
from tokensel.models.parts import ModelParts
from tokensel.models.vision import VisionStates

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class State:
    """Hidden states about to enter decoder layer `layer`, with everything laid out along them.

    hidden: [B, T, D]. attention_mask: BoolTensor[B, T], False = never attended to; None = all real.
    position_ids: LongTensor[B, T], or [axes, B, T]. visual_mask: BoolTensor[B, T], the visual tokens still there.
    rotary: cos and sin [B or 1, T, d]. previous: the hidden states that entered layer - 1, if that layer saw this
    same sequence. prompt: the state before the first layer, None = this one.
    row_keys: LongTensor[B], the key of each row's question. vision: what the tower saw, a row each.
    masked: whether attention_mask hides tokens among the others, and not padding alone.
    key_bias: [B, T] added to the attention logits of these keys from here on; None = nothing.
    image_count: how many visual tokens a row's picture had before any reduction; None = as many as now.
    grid: their rows and columns, None = a square, (1, 0) = all in one row.
    positions, indices: LongTensor[B, M], the survivors of the last reduction in the order they now stand: relative
    to the image, and in the sequence before any reduction; None before any.
    """

    hidden: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    visual_mask: Tensor
    row_keys: Tensor
    layer: int = 0
    rotary: Rotary | None = None
    previous: Tensor | None = None
    prompt: "State | None" = None
    vision: VisionStates | None = None
    masked: bool = False
    key_bias: Tensor | None = None
    image_count: int | None = None
    grid: tuple[int, int] | None = None
    positions: Tensor | None = None
    indices: Tensor | None = None

    def together(self) -> "State":
        """All of it on the device where the hidden states are: layers of one model may lie on several."""
        device = self.hidden.device
        if self.visual_mask.device == device:
            return self
        moved: dict[str, Any] = {
            each.name: value.to(device)
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), Tensor) and value.device != device
        }
        rotary = None if self.rotary is None else (self.rotary[0].to(device), self.rotary[1].to(device))
        return replace(self, **moved, rotary=rotary)

    def filled(self, rows: int) -> "State":
        """A prompt about to enter the first layer, with copies of its first row up to `rows` of them."""
        batch = len(self.hidden)
        if rows == batch:
            return self
        order = torch.arange(rows, device=self.hidden.device)
        order = torch.where(order < batch, order, 0)

        def take_rows(values: Tensor) -> Tensor:
            return values[order] if len(values) == batch else values

        positions = self.position_ids
        return replace(
            self,
            hidden=self.hidden[order],
            attention_mask=None if self.attention_mask is None else self.attention_mask[order],
            position_ids=positions[order] if positions.ndim == 2 else positions[:, order],
            visual_mask=self.visual_mask[order],
            row_keys=self.row_keys[order],
            rotary=None if self.rotary is None else (take_rows(self.rotary[0]), take_rows(self.rotary[1])),
            vision=None if self.vision is None else self.vision.rows(order),
        )

    def followed_by(self, **changes: Any) -> "State":
        """The state with these changes, none of them to where the visual tokens are: that is not looked for again."""
        state = replace(self, **changes)
        if "visual_index" in vars(self):
            vars(state)["visual_index"] = self.visual_index
        return state

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


def reduce_state(state: State, stage: Stage, parts: ModelParts) -> tuple[State, Reduction | None]:
    """Applies one stage: the only place where visual tokens leave, for the hooks and the split model alike.

    parts: the model's, for methods that look at its layers. Returns the reduced state and what was done; (the state
    itself, None) where there is nothing to do (kept >= N, no visual tokens, method "full").

    Raises TokenselError for rows with different numbers of visual tokens, or a bad selection.
    """
    if stage.method.passes_through:
        return state, None
    if stage.position == "renumber" and state.position_ids.ndim == 3:
        # A picture along several axes takes fewer positions than it has tokens: there is nothing to close up.
        stage = replace(stage, position="source")
    state = state.together()
    count = state.visual_index.shape[1]
    image_count = count if state.image_count is None else state.image_count
    kept = stage.kept_of(image_count)
    if kept >= count:
        if kept > count > 0 and count == image_count:
            warnings.warn(
                f"kept={kept}: the image has {count} visual tokens; nothing is removed",
                stacklevel=2,
            )
        return state, None
    context = Context(
        kept=kept,
        count=count,
        layer=state.layer,
        row_keys=state.row_keys,
        source=_ModelSource(state, stage, parts),
        stage=stage.index,
        stages=stage.of,
    )
    with torch.no_grad():
        selection = stage.method.select(context)
    if selection.indices.shape != (state.hidden.shape[0], kept):
        raise TokenselError(
            f"method {stage.method.name!r}: must choose [{state.hidden.shape[0]}, {kept}] tokens, "
            f"chose {list(selection.indices.shape)}"
        )
    places, values, sizes = _survivors(stage, context, selection)
    reduction = _lay_out(stage, state, places, values)
    standing = torch.zeros_like(state.visual_mask).scatter(1, reduction.slots, True)
    positions = places if state.positions is None else state.positions.gather(1, places)
    chosen = state.visual_index.gather(1, places)
    position_ids = reduction.position_ids(state.position_ids)
    rotary = None if state.rotary is None else _along_rotary(reduction, state.rotary)
    if reduction.renumbers:
        rotary = parts.rotary(state.hidden, position_ids)
    bias = state.key_bias
    if sizes is not None:
        logs = torch.zeros_like(state.hidden[:, :, 0])
        logs = logs.scatter(1, reduction.slots, sizes.float().log().to(logs.dtype))
        bias = logs if bias is None else bias + logs
        reduction = replace(reduction, bias=logs)
    reduced = replace(
        state,
        hidden=reduction.hidden(state.hidden),
        attention_mask=reduction.key_mask(state.attention_mask, reduction.length),
        position_ids=position_ids,
        visual_mask=reduction.along(standing),
        rotary=rotary,
        previous=None,
        prompt=state.prompt or (state if state.layer == 0 else None),
        vision=None,
        masked=state.masked or reduction.visible is not None,
        key_bias=None if bias is None else reduction.along(bias),
        image_count=image_count,
        positions=positions,
        indices=chosen if state.indices is None else state.indices.gather(1, places),
    )
    return reduced, reduction


def _along_rotary(reduction: Reduction, rotary: Rotary) -> Rotary:
    return reduction.along(rotary[0]), reduction.along(rotary[1])


@dataclass(frozen=True)
class _ModelSource:
    """Answers a Context's questions from the prompt, the decoder's layers and the vision tower's states."""

    state: State
    stage: Stage
    parts: ModelParts

    def tokens(self) -> Tensor:
        return take(self.state.hidden, self.state.visual_index)

    @property
    def _picture(self) -> State:
        """Where the picture is: its places that an earlier stage emptied or masked are not text either."""
        prompt = self.state.prompt
        return prompt if prompt is not None and prompt.hidden.shape[1] == self.state.hidden.shape[1] else self.state

    @property
    def _text_index(self) -> Tensor:
        """Every token that is not visual, ascending: LongTensor[B, S]."""
        visual = self._picture.visual_mask.to(self.state.hidden.device)
        others = visual.shape[1] - self._picture.visual_index.shape[1]
        return visual.to(torch.uint8).sort(dim=1, stable=True).indices[:, :others]

    def text(self) -> tuple[Tensor, Tensor]:
        index = self._text_index
        instruction = index > self._picture.visual_index[:, -1:].to(index.device)
        if self.state.attention_mask is not None:
            instruction = instruction & self.state.attention_mask.gather(1, index)
        return take(self.state.hidden, index), instruction

    def inputs(self) -> tuple[Tensor, Tensor]:
        start = self.state.prompt or self.state
        return replace(self, state=start).tokens(), replace(self, state=start).text()[0]

    def keys(self) -> Tensor:
        return layer_keys(self.parts.layers[self.state.layer], self.tokens())

    def vision(self) -> VisionStates:
        if self.state.vision is None:
            raise TokenselError(
                f"method {self.stage.method.name!r}: looks at the vision tower, so it needs a prompt with pixel_values "
                "and uses_vision = True"
            )
        return self.state.vision

    def grid(self) -> tuple[int, int]:
        count = self.state.visual_index.shape[1]
        side = math.isqrt(count)
        rows, cols = self.state.grid or (side, side)
        cols = cols or count
        if rows * cols != count or self.state.positions is not None:
            raise TokenselError(
                f"method {self.stage.method.name!r}: needs the picture's whole grid, not {count} visual tokens"
                + (" that an earlier stage left" if self.state.positions is not None else "")
            )
        return rows, cols

    def attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor:
        if weights is not None:
            return self._attention(queries, weights, layer)
        # Points of one pass share the rows of a layer: a copy each, as a method may write into its own.
        known = vars(self.state).setdefault("attention_rows", {})
        if (queries, layer) not in known:
            known[queries, layer] = self._attention(queries, None, layer)
        return known[queries, layer].clone()

    def _attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor:
        state = self.state
        if layer == "next":
            hidden, module = state.hidden, self.parts.layers[state.layer]
        else:
            if state.previous is None:
                raise TokenselError(
                    f"method {self.stage.method.name!r}: must set uses_attention = True to see the previous layer"
                )
            hidden, module = state.previous, self.parts.layers[state.layer - 1]
        rotary = state.rotary
        if rotary is None:
            rotary = self.parts.rotary(state.hidden, state.position_ids)
        index = {
            "last": lambda: last_real(state.attention_mask, hidden),
            "text": lambda: self._text_index,
            "image": lambda: state.visual_index,
        }[queries]()
        if queries == "text":
            instruction = self.text()[1].to(torch.float32)
            weights = instruction if weights is None else instruction * weights
        # The previous layer may lie on another device than this one.
        device = next(module.parameters()).device
        hidden, cos, sin, visual, index = (each.to(device) for each in (hidden, *rotary, state.visual_index, index))
        mask, weights = (None if each is None else each.to(device) for each in (state.attention_mask, weights))
        rows = attention_to_visual(module, hidden, (cos, sin), mask, visual, index, weights)
        return rows.to(state.hidden.device)


Survivors = tuple[Tensor, Tensor | None, Tensor | None]


def _survivors(stage: Stage, context: Context, selection: Selection) -> Survivors:
    """Which visual tokens stand where afterwards, in order; what they carry (None = their own) and weigh (None = 1)."""
    places, values, sizes = selection.indices, selection.values, selection.sizes
    if values is not None:
        if stage.layout == "mask":
            raise TokenselError(f"layout='mask': method {stage.method.name!r} changes what the survivors carry")
        values = values.to(context.tokens.dtype)
    if stage.position == "source":
        # A method may choose one token twice; two survivors cannot stand in one place, so the lowest free one fills in.
        taken = torch.zeros(len(places), context.count, dtype=torch.uint8, device=places.device)
        taken = taken.scatter(1, places, 1)
        free_last = taken.sort(dim=1, descending=True, stable=True).indices
        distinct = free_last[:, : context.kept].sort(dim=1).values
        if values is not None or sizes is not None:
            order = torch.full(taken.shape, -1, device=places.device)
            order = order.scatter(
                1,
                places,
                torch.arange(context.kept, device=places.device).expand_as(places),
            )
            rank = order.gather(1, distinct)
            chosen = rank.clamp_min(0)
            if values is not None:
                own = take(context.tokens, distinct)
                values = torch.where((rank < 0).unsqueeze(-1), own, take(values, chosen))
            if sizes is not None:
                sizes = torch.where(rank < 0, 1.0, sizes.float().gather(1, chosen))
        places = distinct
    if values is None and stage.aggregation != "none":
        queries = take(context.tokens, places)
        if stage.aggregation == "mean":
            return places, nearest_mean(queries, context.tokens), sizes
        return places, cross_attention(queries, context.tokens, stage.temperature), sizes
    if values is None and (stage.position != "source" or stage.layout == "zero_fill"):
        values = take(context.tokens, places)
    return places, values, sizes


def _lay_out(stage: Stage, state: State, places: Tensor, values: Tensor | None) -> Reduction:
    visual = state.visual_index
    slots = visual.gather(1, places) if stage.position == "source" else visual[:, : places.shape[1]]
    length = state.hidden.shape[1]
    if stage.layout == "zero_fill":
        return Reduction(length, slots, values, erased=visual)
    standing = (~state.visual_mask).scatter(1, slots, True)
    if stage.layout == "mask":
        return Reduction(length, slots, values, visible=standing)
    remaining = length - visual.shape[1] + slots.shape[1]
    keep = (~standing).to(torch.uint8).sort(dim=1, stable=True).indices[:, :remaining]
    return Reduction(length, slots, values, keep=keep, renumbers=stage.position == "renumber")
