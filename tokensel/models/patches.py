"""What a vision tower without a single [CLS] computed: merged patches, tiles, SigLIP."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.models.arrangement import Arrangement
from tokensel.models.tower_layer import first_norm, project_heads, received_attention, rotate
from tokensel.models.vision import VisionStates, cls_row_and_keys


@dataclass(frozen=True)
class PatchTower(VisionStates):
    """A tower whose patches are merged, packed or without [CLS] on their way to the decoder.

    `features` are the visual tokens that the decoder is given, and `project` leaves them as they are, as the methods'
    releases for such models do. Attention and keys of patches become those of visual tokens by the arrangement. Without
    [CLS], a negative layer means the last layer in which every patch sees all others, and another layer the next such
    layer from it on. Tiles with a [CLS] each have its attention.

    Parameters:
        layers: all layers of the tower
        entering: the hidden states that entered each of them, [tiles, T, D], or [patches, D] of all pictures
        arrangement: how patches become visual tokens
        order: the picture of each row
        special: how many tokens of a tile stand before its patches: 1 with [CLS], else 0
        rotary: cos and sin [patches, d] of the patches; None = no rotary embedding
        mask: [tiles, 1, T or 1, T], what a tile's tokens see of each other; None = all
        visual: the visual tokens [B, N, D_text]
        frame: which frame alone is meant, of how many of a video; None: all
    """

    layers: Sequence[Any]
    entering: Sequence[Tensor]
    arrangement: Arrangement
    order: tuple[int, ...]
    special: int = 0
    rotary: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    visual: Tensor | None = None
    frame: tuple[int, int] | None = None

    @property
    def features(self) -> Tensor:
        if self.visual is None:
            raise TokenselError("vision.features: known once the decoder has its visual tokens; use with_tokens")
        return self.visual

    @property
    def cls(self) -> None:
        return None

    @property
    def device(self) -> torch.device:
        return self.entering[0].device

    def rows(self, order: Tensor) -> "PatchTower":
        visual = None if self.visual is None else self.visual[order]
        return replace(self, order=tuple(self.order[row] for row in order.tolist()), visual=visual)

    def one_frame(self, index: int, frames: int) -> "PatchTower":
        return replace(self, frame=(index, frames), visual=None)

    def with_tokens(self, tokens: Tensor) -> "PatchTower":
        return replace(self, visual=tokens)

    def project(self, features: Tensor) -> Tensor:
        return features

    def keys(self, layer: int = -2) -> Tensor:
        index = self._seeing_all(layer)
        module = self.layers[index]
        keys = project_heads(module, "k_proj", first_norm(module, self._tiles(self.entering[index])))
        return self._token_keys(keys[:, self.special :])

    def cls_attention_and_keys(self, layer: int = -2, one_head: bool = False) -> tuple[Tensor, Tensor]:
        """Costs O(P^2 D) for tiles of P patches without [CLS]."""
        index = self._seeing_all(layer)
        module, states = self.layers[index], self._tiles(self.entering[index])
        if self.special:
            attention, keys = cls_row_and_keys(module, states, one_head)
        else:
            normed = first_norm(module, states)
            query, keys = (project_heads(module, name, normed) for name in ("q_proj", "k_proj"))
            key = keys
            if self.rotary is not None:
                cos, sin = (self._tiles(each) for each in self.rotary)
                query, key = rotate(query, cos, sin), rotate(key, cos, sin)
            if one_head:
                query, key = (each.flatten(2).unsqueeze(2) for each in (query, key))
            attention = received_attention(query, key, None if self.mask is None else self._tiles(self.mask))
        return self._tokens(attention.transpose(1, 2)).transpose(1, 2), self._token_keys(keys)

    def _seeing_all(self, layer: int) -> int:
        """The layer that is meant by `layer`."""
        depth = len(self.layers)
        if self.special:
            return layer % depth
        full = self.arrangement.full_layers(depth)
        return next((each for each in full if 0 <= layer <= each), full[-1])

    def _tiles(self, states: Tensor) -> Tensor:
        """The states of all rows' tiles: [tiles, T, ...]."""
        rows = [states[begin:end] for begin, end in map(self._span, self.order)]
        if states.ndim == 2:
            rows = [row.unflatten(0, (self._cut(picture), -1)) for row, picture in zip(rows, self.order, strict=True)]
        return torch.cat(rows)

    def _span(self, picture: int) -> tuple[int, int]:
        """Where a picture's states begin and end; of a video, perhaps one frame's."""
        begin, end = self.arrangement.spans[picture]
        if self.frame is None:
            return begin, end
        index, frames = self.frame
        length = (end - begin) // frames
        return begin + index * length, begin + (index + 1) * length

    def _cut(self, picture: int) -> int:
        return self.arrangement.frames(picture) if self.frame is None else 1

    def _tokens(self, values: Tensor) -> Tensor:
        """Values of patches [tiles, P, C] of all rows as values of visual tokens: [B, N, C]."""
        spans = map(self._span, self.order)
        if self.entering[0].ndim == 2:
            sizes = [self._cut(picture) for picture in self.order]
        else:
            sizes = [end - begin for begin, end in spans]
        rows = zip(values.split(sizes), self.order, strict=True)
        return torch.stack([self.arrangement.tokens(each, picture) for each, picture in rows])

    def _token_keys(self, keys: Tensor) -> Tensor:
        return self._tokens(keys.flatten(2)).unflatten(-1, keys.shape[2:])
