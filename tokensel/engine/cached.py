"""A prompt and its answer over KV caches of a fixed size: prefill in pieces, then greedy steps, as compiled graphs.

The same answers as the stock model gives under `reduce_tokens`, with no hook and no growing cache, so that every step
has the shapes of the one before and the graphs of `tokensel.engine.compiled` fit.
"""

import itertools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokensel.engine.attention import last_real
from tokensel.engine.compiled import Through
from tokensel.engine.compiled import through as plainly
from tokensel.engine.layouts import explicit_mask
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.engine.state import slides
from tokensel.engine.writing import write_greedily
from tokensel.errors import TokenselError
from tokensel.functional import take
from tokensel.models.families import ALONG_PROMPT

# Places for keys are a multiple of this, so that prompts of about one length share a graph.
CAPACITY_MULTIPLE = 64
# Sets of buffers: layers x lengths x batches. More, and they are made anew.
MOST_BUFFERS = 64
_serials = itertools.count()


@dataclass(frozen=True)
class Buffers:
    """What layers first .. last - 1 remember, and how a new token sees it.

    keys, values: of each layer, [B, heads, capacity, d]. mask: [B, 1, 1, capacity], boolean or additive. start:
    LongTensor[1], how many places the prompt took. position: LongTensor[B, 1] or [axes, B, 1], the first new token's.
    serial: no other buffers have it.
    """

    first: int
    last: int
    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    start: Tensor
    position: Tensor
    serial: int


@dataclass
class Decoding:
    """A prompt that was prefilled, until the next one is. logits: [B, V] after its last token. state: what remained of
    it. steps: how many tokens were added, of at most `room`."""

    logits: Tensor
    state: State
    buffers: list[Buffers]
    room: int
    steps: int = 0


class CachedModel:
    """A `SplitModel` with a KV cache. One prompt or batch at a time: a prefill ends the decoding before it.

        cached = CachedModel(SplitModel(model, compiled=True))
        decoding = cached.prefill(cached.split.embed(**inputs), stages, room=16)
        cached.step(decoding, decoding.logits.argmax(-1, keepdim=True))  # logits after one more token

    Raises TokenselError for attention that takes no 4-D mask (flash), and for a decoder on several devices.
    """

    def __init__(self, split: SplitModel) -> None:
        self.split, self.parts = split, split.parts
        if why := cannot_cache(split):
            raise TokenselError(why)
        self._buffers: dict[Hashable, Buffers] = {}
        self._rows = 0
        self._layers = list(self.parts.layers) if split.graphs is None else split.graphs.layers

    @torch.no_grad()
    def features(self, pictures: Mapping[str, Any]) -> Tensor | list[Tensor]:
        """`SplitModel.picture_features` by a graph, where pictures are pixel_values alone."""
        given = {name: value for name, value in pictures.items() if name not in ALONG_PROMPT}
        if set(given) != {"pixel_values"}:
            return self.split.picture_features(pictures)
        return self._call(("vision",), self._see, given["pixel_values"])

    def _see(self, through: Through, pixel_values: Tensor) -> Tensor:
        return torch.stack(list(self.parts.family.features(self.parts.llava, {"pixel_values": pixel_values})))

    @torch.no_grad()
    def prefill(self, state: State, stages: Sequence[Stage], room: int) -> Decoding:
        """Runs a prompt about to enter the first layer through all of them, reducing it on the way.

        room: tokens that may follow. Rows that a batch lacks to be as large as the ones before it are filled up, and
        stay in `state`, not in `logits`.
        """
        batch = len(state.hidden)
        if self.split.graphs is not None:
            self._rows = max(batch, self._rows)
            state = state.filled(self._rows)
        following = state.following()
        depth, used = self.split.num_layers, []
        active = {stage.layer: stage for stage in stages if stage.layer < depth and not stage.method.passes_through}
        bounds = [*sorted({0, *active}), depth]
        for first, last in itertools.pairwise(bounds):
            if first in active:
                state = self.split.reduce(state, active[first])
                reduction = state.reductions.get(first)
                following = following if reduction is None else reduction.position_ids(following, later=True)
            buffers = self._prepare(state, first, last, following, room)
            keeps_previous = last in active and active[last].method.uses_attention
            state = self._enter(state, buffers, keeps_previous)
            used.append(buffers)
        where = last_real(state.attention_mask, state.hidden)
        logits = self._read(take(state.hidden, where))[:batch]
        return Decoding(logits, state, used, room)

    @torch.no_grad()
    def step(self, decoding: Decoding, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token, LongTensor[B, 1]. Raises TokenselError where there is no room."""
        if decoding.steps >= decoding.room:
            raise TokenselError(f"room={decoding.room}: no room for another token")
        batch, used = len(token), decoding.buffers
        rows = len(used[0].mask)
        token = torch.cat([token, token[:1].expand(rows - batch, 1)]) if rows > batch else token.contiguous()
        index = torch.full((1,), decoding.steps, device=token.device)
        memory = (
            [key for each in used for key in each.keys],
            [value for each in used for value in each.values],
            *([getattr(each, name) for each in used] for name in ("mask", "start", "position")),
        )
        function = partial(self._advance, tuple((each.first, each.last) for each in used))
        decoding.steps += 1
        key = ("step", *(each.serial for each in used))
        return self._call(key, function, token, index, *memory)[:batch]

    def greedy(
        self, state: State, stages: Sequence[Stage], most: int, stop: Collection[int], pad: int
    ) -> tuple[Tensor, State]:
        """As `SharedWriter.greedy`, for a prompt about to enter the first layer."""
        decoding = self.prefill(state, stages, most)

        def step(token: Tensor, index: int) -> Tensor:
            return self.step(decoding, token)

        return write_greedily(decoding.logits, step, most, stop, pad), decoding.state

    def _prepare(self, state: State, first: int, last: int, following: Tensor, room: int) -> Buffers:
        """The buffers of these layers for a prompt of the state's length, with the mask that new tokens have."""
        batch, length = state.hidden.shape[:2]
        capacity = -(-(length + room) // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        hidden = state.hidden
        additive = state.key_bias is not None or self.parts.attention_name != "sdpa"
        key = (first, last, batch, capacity, additive, following.ndim)
        if key not in self._buffers:
            if len(self._buffers) >= MOST_BUFFERS:
                self._buffers.clear()
                if self.split.graphs is not None:
                    self.split.graphs.forget("prefill", "step")
            config: Any = self.parts.decoder.config
            attention: Any = self.parts.layers[first].self_attn
            size = (batch, config.num_key_value_heads, capacity, attention.head_dim)
            with torch.inference_mode(False):
                self._buffers[key] = Buffers(
                    first,
                    last,
                    [hidden.new_zeros(size) for _ in range(first, last)],
                    [hidden.new_zeros(size) for _ in range(first, last)],
                    hidden.new_zeros(batch, 1, 1, capacity, dtype=hidden.dtype if additive else torch.bool),
                    torch.zeros(1, dtype=torch.long, device=hidden.device),
                    torch.zeros_like(following, memory_format=torch.contiguous_format),
                    next(_serials),
                )
        buffers = self._buffers[key]
        seen = torch.zeros(batch, capacity, dtype=torch.bool, device=hidden.device)
        seen[:, :length] = True if state.attention_mask is None else state.attention_mask
        bias = None if state.key_bias is None else nn.functional.pad(state.key_bias, (0, capacity - length))
        place = torch.full((1,), capacity - 1, device=hidden.device)  # a new token is behind all that it may see
        buffers.mask.copy_(explicit_mask(seen, bias, place, capacity, buffers.mask.dtype))
        buffers.start.fill_(length)
        buffers.position.copy_(following)
        return buffers

    def _enter(self, state: State, buffers: Buffers, keeps_previous: bool) -> State:
        """The prompt through the buffers' layers. keeps_previous: what entered the last of them is wanted too."""
        rotary = self.parts.rotary(state.hidden, state.position_ids)
        given = (state.hidden, self.split.layer_mask(state), *rotary, buffers.keys, buffers.values)
        function = partial(_fill, self._layers[buffers.first : buffers.last], keeps_previous)
        found = self._call(("prefill", buffers.serial, keeps_previous), function, *given)
        return state.followed_by(
            hidden=found[-1] if keeps_previous else found,
            previous=found[0] if keeps_previous else None,
            prompt=state if state.layer == 0 and state.prompt is None else state.prompt,
            layer=buffers.last,
        )

    def _advance(
        self,
        spans: tuple[tuple[int, int], ...],
        through: Through,
        token: Tensor,
        index: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        masks: list[Tensor],
        starts: list[Tensor],
        positions: list[Tensor],
    ) -> Tensor:
        """A token [B, 1], the answer's index-th, through all layers. Nothing changes when it is done twice."""
        hidden = self.parts.decoder.get_input_embeddings()(token)
        for (first, last), mask, start, position in zip(spans, masks, starts, positions, strict=True):
            where = start + index
            mask.index_fill_(3, where, True if mask.dtype == torch.bool else 0.0)
            cos, sin = self.parts.rotary(hidden, position + index)
            for layer in range(first, last):
                hidden = through(self._layers[layer], hidden, mask, cos, sin, keys[layer], values[layer], where)
        return self._read(hidden)

    def _read(self, hidden: Tensor) -> Tensor:
        assert self.parts.head is not None
        return self.parts.head(self.parts.decoder.norm(hidden))[:, -1]

    def _call(self, key: tuple[Any, ...], function: Callable[..., Tensor], *given: Any) -> Tensor:
        if self.split.graphs is None:
            return function(plainly, *given)
        return self.split.graphs.call(key, function, *given)


def cannot_cache(split: SplitModel) -> str | None:
    """Why a model cannot run over buffers of a fixed size; None: it can."""
    if split.parts.head is None:
        return "model: has no language-model head to give logits"
    if split.parts.uses_flash:
        return f"attn_implementation={split.parts.attention_name}: takes no 4-D mask; use sdpa or eager"
    if slides(split.parts):
        return "sliding_window: compiled layers take masks without windows"
    if len({weight.device for weight in split.parts.decoder.parameters()}) > 1:
        return "device_map: the decoder lies on several devices"
    return None


def _fill(
    layers: Sequence[Any],
    keeps_previous: bool,
    through: Through,
    hidden: Tensor,
    mask: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
) -> Tensor:
    """A prompt [B, T, D] through layers that remember it -> [B, T, D], or [2, B, T, D] with what entered the last."""
    previous = hidden
    for layer, key, value in zip(layers, keys, values, strict=True):
        previous = hidden
        hidden = through(layer, hidden, mask, cos, sin, key, value)
    return torch.stack([previous, hidden]) if keeps_previous else hidden
