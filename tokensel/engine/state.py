"""A batch of prompts on its way through the decoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Cache

from tokensel.engine.attention import sliding_window
from tokensel.engine.caches import FixedCache
from tokensel.engine.deepstack import deepstack_arguments
from tokensel.engine.layouts import Reduction, explicit_mask
from tokensel.errors import TokenselError
from tokensel.methods.context import PictureSizes
from tokensel.models.families import Grid
from tokensel.models.parts import ModelParts
from tokensel.models.vision import VisionStates

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """One picture or video of a prompt, the same in every row of a batch.

    count: its visual tokens now. original: before any reduction. grid: their rows and columns then; None = a square,
    (1, 0) = all in one row; of a video frames, rows and columns. entry: which of a row's pictures, or videos, it is.
    frame: which frame of how many, where a video's frames are reduced each by itself.
    """

    count: int
    original: int
    grid: Grid | None = None
    entry: int = 0
    frame: tuple[int, int] | None = None

    @property
    def is_video(self) -> bool:
        return self.grid is not None and len(self.grid) == 3

    def by_frame(self) -> "tuple[Picture, ...]":
        """A video's frames as pictures; a picture as it is."""
        if self.grid is None or not self.is_video:
            return (self,)
        frames, *shape = self.grid
        tokens = self.count // frames
        return tuple(Picture(tokens, tokens, tuple(shape), self.entry, (index, frames)) for index in range(frames))


@dataclass(frozen=True)
class State:
    """Hidden states about to enter decoder layer `layer`, with everything laid out along them.

    hidden: [B, T, D]. attention_mask: BoolTensor[B, T], False = never attended to; None = all real.
    position_ids: LongTensor[B or 1, T], or [axes, B or 1, T].
    visual_index: LongTensor[B, N], where the visual tokens that remain are, ascending.
    counts: LongTensor[B, P], how many of them each of a row's P pictures has, where rows differ: the first
    sum(counts[b]) of row b are visual tokens, the rest padding, with which compact sequences begin. None = no padding.
    row_keys: LongTensor[B], the key of each row's question. questions: their texts; picture_sizes: width and height of
    their pictures before these were padded; None = unknown.
    pictures: they own the N visual tokens in this order; with counts, each picture's count is the largest of any row.
    previous: the hidden states that entered layer - 1, if that layer saw this same sequence.
    prompt: the state before the first layer, None = this one. vision: what the tower saw, a row's pictures together.
    deepstack: [B, N, K, D], what each of the first K layers adds to the visual tokens behind it; None = nothing.
    right_padded: padding stands after all that is real, where causal attention does not see it.
    masked: attention_mask hides tokens among the others, and not padding alone.
    token_types: LongTensor[B, T], 1 where a visual token stands, for families whose masks are made of it; else None.
    key_bias: [B, T] added to the attention logits of these keys from here on; None = nothing.
    weights: [B, N] float32, how many of a picture's tokens each visual token stands for, padding 0; None = 1 each, and
    where nobody counts.
    positions, indices: LongTensor[B, M], the survivors of the last reduction in the order they now stand: counted among
    the row's visual tokens, and in the sequence before any reduction; -1 = none of them; None before any.
    cache: the KV cache that the layers below filled, None = none.
    reductions: what was done so far, by layer; each to what the ones before it left.
    attention_rows, orders: rows of attention already computed at this layer, and orders of choice; points of one pass
    share them.
    """

    hidden: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    visual_index: Tensor
    row_keys: Tensor
    pictures: tuple[Picture, ...]
    layer: int = 0
    previous: Tensor | None = None
    prompt: "State | None" = None
    vision: VisionStates | None = None
    questions: tuple[str, ...] | None = None
    picture_sizes: PictureSizes | None = None
    deepstack: Tensor | None = None
    right_padded: bool = False
    masked: bool = False
    token_types: Tensor | None = None
    key_bias: Tensor | None = None
    weights: Tensor | None = None
    counts: Tensor | None = None
    positions: Tensor | None = None
    indices: Tensor | None = None
    cache: Cache | FixedCache | None = None
    reductions: Mapping[int, Reduction] = field(default_factory=dict)
    attention_rows: dict[Any, Tensor] = field(default_factory=dict, compare=False, repr=False)
    orders: dict[Any, dict[Any, Any]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def entries(self) -> int:
        """How many pictures, or videos, the tower saw for each row."""
        return 1 + max(picture.entry for picture in self.pictures)

    def by_frame(self) -> "State":
        """The state with each frame of its videos as a picture of its own."""
        if not any(picture.is_video for picture in self.pictures):
            return self
        pictures = tuple(frame for picture in self.pictures for frame in picture.by_frame())
        return replace(self, pictures=pictures, prompt=None if self.prompt is None else self.prompt.by_frame())

    @property
    def real(self) -> Tensor:
        """Which entries of visual_index are visual tokens, and not padding: BoolTensor[B, N]."""
        counts = self.counts
        if counts is None:
            return torch.ones_like(self.visual_index, dtype=torch.bool)
        return torch.arange(self.visual_index.shape[1], device=counts.device) < counts.sum(1, keepdim=True)

    @property
    def remaining(self) -> dict[int, Tensor]:
        """How many visual tokens each row was left with at each layer where some were removed: LongTensor[B] each."""
        return {layer: reduction.left for layer, reduction in self.reductions.items()}

    def followed_by(self, **changes: Any) -> "State":
        """The state with these changes; attention rows and orders are computed anew."""
        return replace(self, attention_rows={}, orders={}, **changes)

    def together(self) -> "State":
        """All of it on the device where the hidden states are: layers of one model may lie on several."""
        device = self.hidden.device
        moved: dict[str, Any] = {
            each.name: value.to(device)
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), Tensor) and value.device != device
        }
        return replace(self, **moved) if moved else self

    def rows(self, order: Tensor, first: int = 0) -> "State":
        """The rows `order`, LongTensor[B'], from position `first` on, without a KV cache."""

        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[order, first:]

        positions, entries = self.position_ids, torch.arange(self.entries, device=order.device)
        positions = positions[..., order, first:] if positions.shape[-2] > 1 else positions[..., first:]
        return self.followed_by(
            hidden=self.hidden[order, first:],
            attention_mask=of(self.attention_mask),
            position_ids=positions,
            visual_index=self.visual_index[order] - first,
            row_keys=self.row_keys[order],
            previous=of(self.previous),
            prompt=None if self.prompt is None else self.prompt.rows(order.to(self.prompt.hidden.device)),
            vision=self.vision and self.vision.rows((order[:, None] * self.entries + entries).flatten()),
            questions=self.questions and tuple(self.questions[row] for row in order.tolist()),
            picture_sizes=self.picture_sizes and tuple(self.picture_sizes[row] for row in order.tolist()),
            token_types=of(self.token_types),
            key_bias=of(self.key_bias),
            **{
                name: None if value is None else value[order]
                for name in ("counts", "positions", "indices", "deepstack", "weights")
                for value in [getattr(self, name)]
            },
            cache=None,
            reductions={layer: reduction.rows(order) for layer, reduction in self.reductions.items()},
        )

    def groups(self) -> list[tuple[Tensor, "State"]]:
        """Rows whose pictures have equally many visual tokens, as states without padding: (LongTensor[b], state)."""
        if self.counts is None:
            return [(torch.arange(len(self.hidden), device=self.hidden.device), self)]
        found = []
        compact = any(reduction.keep is not None for reduction in self.reductions.values())
        kinds, kind_of = self.counts.unique(dim=0, return_inverse=True)
        for kind, counts in enumerate(kinds.tolist()):
            order, left = (kind_of == kind).nonzero()[:, 0], sum(counts)
            state = self.rows(order, self.visual_index.shape[1] - left if compact else 0)
            found.append(
                (
                    order,
                    state.followed_by(
                        visual_index=state.visual_index[:, :left],
                        pictures=tuple(
                            replace(each, count=count) for each, count in zip(self.pictures, counts, strict=True)
                        ),
                        counts=None,
                        deepstack=None if state.deepstack is None else state.deepstack[:, :left],
                        positions=None if state.positions is None else state.positions[:, :left],
                        indices=None if state.indices is None else state.indices[:, :left],
                        weights=None if state.weights is None else state.weights[:, :left],
                    ),
                )
            )
        return found

    def following(self) -> Tensor:
        """The position of the first token behind each prompt: LongTensor[B, 1], or [axes, B, 1]. For a state about to
        enter the first layer."""
        # Padding stands at no position higher than the prompt's last token; axes other than the text's own may.
        ids = self.position_ids if self.position_ids.ndim == 2 else self.position_ids[-3:]
        after = ids.amax(-1, keepdim=True) + 1
        if after.ndim == 3:
            after = after.amax(0, keepdim=True).expand_as(after)
        return after.expand(*after.shape[:-2], len(self.hidden), 1)

    def extras(self) -> dict[str, Any]:
        """What `run_span` is given with the hidden states, for the layers from this one on."""
        types = {} if self.token_types is None else {"token_types": self.token_types}
        return types | deepstack_arguments(self.deepstack, self.visual_index, self.layer, self.hidden.shape[1])

    def mask(self, parts: ModelParts) -> Tensor | None:
        """The attention mask for the stock forward: [B, T], or 4-D where keys have a bias or nobody may look at what it
        holds, as in compiled graphs.

        Without one, transformers would take positions with a gap, or those of padding, for several packed sequences;
        with one of ones it would not, and attends as without.
        """
        hides = self.attention_mask if self.masked or not self.right_padded else None
        fixed = isinstance(self.cache, FixedCache)  # with a cache, nothing is taken for packed
        if self.key_bias is not None or (fixed and (hides is not None or parts.attention_name != "sdpa")):
            return layer_mask(parts, self.hidden, self.hidden.shape[1], hides, self.key_bias)
        if hides is None and not fixed and (self.right_padded or self.indices is not None):
            return torch.ones(self.hidden.shape[:2], dtype=torch.bool, device=self.hidden.device)
        return hides


def slides(parts: ModelParts) -> bool:
    """Whether some layer sees a sliding window of keys only."""
    return any(sliding_window(layer) is not None for layer in parts.layers)


def layer_mask(parts: ModelParts, hidden: Tensor, keys: int, key_mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """The mask that layers take, [B or 1, 1, T, keys], where the stock forward would not make the right one. hidden:
    [B, T, D], of the last T keys. key_mask, bias: [B, keys] or None; fewer where the last places are empty.

    Raises TokenselError where the model's attention cannot take a bias.
    """
    if bias is not None and parts.uses_flash:
        raise TokenselError("attn_implementation: methods that weigh tokens by size need sdpa or eager")
    if bias is not None and slides(parts):
        raise TokenselError("sliding_window: methods that weigh tokens by size need full attention in every layer")
    dtype = hidden.dtype if bias is None else bias.dtype
    if bias is None and parts.attention_name == "sdpa":
        dtype = torch.bool
    device = hidden.device
    key_mask, bias = (
        None if each is None else nn.functional.pad(each.to(device), (0, keys - each.shape[1]))
        for each in (key_mask, bias)
    )
    return explicit_mask(key_mask, bias, torch.arange(keys - hidden.shape[1], keys, device=device), keys, dtype)


def expand_rows(values: Tensor, batch: int) -> Tensor:
    """Rows repeated as generate does for beams and several sequences: [b, ...] -> [batch, ...] where b divides it."""
    rows = len(values)
    return values.repeat_interleave(batch // rows, 0) if rows and batch % rows == 0 else values


def expand_each(values: tuple[T, ...] | None, batch: int) -> tuple[T, ...] | None:
    """A value for each row, repeated as rows are; None where their number does not fit."""
    copies, rest = divmod(batch, len(values)) if values else (0, 0)
    return None if values is None or rest else tuple(value for value in values for _ in range(copies))


def fill_rows(values: Tensor, batch: int, rows: int, dim: int = 0) -> Tensor:
    """Rows up to `rows`, copies of the first, where values have one for each of the batch along `dim`."""
    if rows == batch or values.shape[dim] != batch:
        return values
    order = torch.arange(rows, device=values.device)
    return values.index_select(dim, torch.where(order < batch, order, 0))


def find_visual(visual_mask: Tensor) -> Tensor:
    """Where a mask [B, T] is True, ascending: LongTensor[B, N]. Waits for the device once, as N sets the shapes.

    Raises TokenselError when the rows hold different numbers of visual tokens.
    """
    batch = visual_mask.shape[0]
    found = visual_mask.nonzero()
    index = found[: len(found) - len(found) % batch, 1].view(batch, -1)
    expected = torch.arange(batch, device=found.device).repeat_interleave(index.shape[1])
    if len(found) % batch or not torch.equal(found[:, 0], expected):
        counts = visual_mask.sum(1).tolist()
        raise TokenselError(f"visual tokens per row {counts}: every row of a batch must hold equally many")
    return index
