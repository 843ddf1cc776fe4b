"""Answers a method's questions about one picture of a prompt: what stands behind a Context."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tokensel.engine.attention import attention_to_visual, last_real, layer_keys, layer_projection, picture_blocks
from tokensel.engine.state import Picture, State
from tokensel.errors import TokenselError
from tokensel.functional import take
from tokensel.methods import Method
from tokensel.methods.context import PictureSizes
from tokensel.models.families import Grid
from tokensel.models.parts import ModelParts
from tokensel.models.vision import VisionStates

# Batches may be computed in several threads, and a tokenizer cannot be shared between them.
_TOKENIZING = threading.Lock()


@dataclass(frozen=True)
class StateSource:
    """state: the prompt. picture: which of its pictures. method: the one that asks, for error messages."""

    state: State
    picture: int
    method: Method
    parts: ModelParts

    @property
    def _this(self) -> Picture:
        return self.state.pictures[self.picture]

    @property
    def visual_index(self) -> Tensor:
        """The picture's visual tokens in the sequence, ascending: LongTensor[B, N]."""
        first = sum(picture.count for picture in self.state.pictures[: self.picture])
        return self.state.visual_index[:, first : first + self._this.count]

    @property
    def deepstack(self) -> Tensor | None:
        """The deepstack features of the picture's visual tokens: [B, N, K, D]; None where there are none."""
        first = sum(picture.count for picture in self.state.pictures[: self.picture])
        features = self.state.deepstack
        return None if features is None else features[:, first : first + self._this.count]

    @property
    def weights(self) -> Tensor | None:
        """How many tokens each of the picture's visual tokens stands for: [B, N]; None where nobody counts."""
        first = sum(picture.count for picture in self.state.pictures[: self.picture])
        weights = self.state.weights
        return None if weights is None else weights[:, first : first + self._this.count]

    def tokens(self) -> Tensor:
        return take(self.state.hidden, self.visual_index)

    @property
    def _all_visual(self) -> Tensor:
        """Where pictures are: places that an earlier stage emptied or masked are not text either."""
        prompt = self.state.prompt
        same = prompt is not None and prompt.hidden.shape[1] == self.state.hidden.shape[1]
        return (prompt if same and prompt is not None else self.state).visual_index.to(self.state.hidden.device)

    @property
    def _text_index(self) -> Tensor:
        """Every token that is not visual, ascending: LongTensor[B, S]."""
        batch, length = self.state.hidden.shape[:2]
        visual = torch.zeros(batch, length, dtype=torch.uint8, device=self.state.hidden.device)
        visual = visual.scatter(1, self._all_visual, 1)
        return visual.sort(dim=1, stable=True).indices[:, : length - self._all_visual.shape[1]]

    def text(self) -> tuple[Tensor, Tensor]:
        index = self._text_index
        instruction = index > self._all_visual[:, -1:]
        if self.state.attention_mask is not None:
            instruction = instruction & self.state.attention_mask.gather(1, index)
        return take(self.state.hidden, index), instruction

    def inputs(self) -> tuple[Tensor, Tensor]:
        start = replace(self, state=self.state.prompt or self.state)
        device = self.state.hidden.device  # an earlier layer's may be another
        return start.tokens().to(device), start.text()[0].to(device)

    def keys(self) -> Tensor:
        module, tokens = self.parts.layers[self.state.layer], self.tokens()
        return layer_keys(module, tokens.to(_device_of(module, tokens))).to(tokens.device)

    def project(self, part: str, tokens: str, layer: str, rotary: bool) -> Tensor:
        hidden, module = self._entering(layer)
        index = self._index_of(tokens, hidden)
        if part == "key" and rotary and layer == "previous":
            made = self._previous_keys()
            if made is not None:
                return take(made.to(hidden.device).transpose(1, 2), index)
        device = _device_of(module, hidden)
        hidden, index = hidden.to(device), index.to(device)
        angles = None
        if rotary:
            cos, sin = self.rotary(tokens, layer)
            angles = cos.to(device), sin.to(device)
        return layer_projection(module, part, take(hidden, index), angles).to(self.state.hidden.device)

    def _previous_keys(self) -> Tensor | None:
        """The rotated keys that the layer before has just made of the whole prompt, [B, heads, T, d], where a cache of
        the plain kind holds them at the positions that `rotary` gives."""
        state = self.state
        if not isinstance(state.cache, DynamicCache) or self._unpadded_positions() is not state.position_ids:
            return None
        layer = state.cache.layers[state.layer - 1]
        if type(layer) is not DynamicLayer or layer.keys is None or layer.keys.shape[2] != state.hidden.shape[1]:
            return None
        return layer.keys

    def rotary(self, tokens: str, layer: str = "previous") -> tuple[Tensor, Tensor]:
        hidden = self.state.hidden
        index = self._index_of(tokens, hidden)
        cos, sin = self.parts.rotary(hidden, self._unpadded_positions(), self._number(layer))
        batch = len(hidden)
        return take(cos.expand(batch, -1, -1), index), take(sin.expand(batch, -1, -1), index)

    def _unpadded_positions(self) -> Tensor:
        """The position ids as if padding on the left were not there: a rotated vector depends on where it stands, as
        attention does not."""
        ids, mask = self.state.position_ids, self.state.attention_mask
        if mask is None or self.state.right_padded or bool(mask[:, 0].all()):
            return ids
        first = mask.to(torch.uint8).argmax(1, keepdim=True)
        ids = ids.expand(*ids.shape[:-2], len(mask), -1)
        begin = ids.gather(-1, first.to(ids.device).expand(*ids.shape[:-1], 1))
        return ids - torch.where(first.to(ids.device) > 0, begin, 0)

    def final_norm(self, states: Tensor) -> Tensor:
        norm = self.parts.decoder.norm
        return norm(states.to(_device_of(norm, states), norm.weight.dtype)).to(states.device)

    def before_picture(self) -> Tensor:
        index = self._text_index
        before = index < self._all_visual[:, -1:]
        return before if self.state.attention_mask is None else before & self.state.attention_mask.gather(1, index)

    def questions(self) -> tuple[str, ...] | None:
        return self.state.questions

    def picture_sizes(self) -> PictureSizes | None:
        return self.state.picture_sizes

    def embed_words(self, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        tokenizer: Any = self.parts.tokenizer
        if tokenizer is None:
            raise TokenselError(f"tokenizer=None: method {self.method.name!r} reads words; give tokenizer=")
        with _TOKENIZING:
            rows = [tokenizer(list(words), is_split_into_words=True, truncation=True)["input_ids"] for words in texts]
        rows = [ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids for ids in rows]
        length = max(1, *map(len, rows))
        device = self.state.hidden.device
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        real = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows], device=device)
        embeddings = self.parts.decoder.get_input_embeddings()
        return embeddings(ids.to(_device_of(embeddings, ids))).to(device), real

    def vision(self) -> VisionStates:
        if self.state.vision is None:
            raise TokenselError(
                f"method {self.method.name!r}: uses the vision tower; it needs a prompt with pixel_values, and "
                "uses_vision = True"
            )
        batch, entries = len(self.state.hidden), self.state.entries
        vision = self.state.vision
        if self.method.needs_cls and vision.cls is None:
            raise TokenselError(f"method {self.method.name!r}: needs a vision tower with one [CLS], as in LLaVA-1.5")
        if entries > 1:
            vision = vision.rows(torch.arange(batch, device=self.state.hidden.device) * entries + self._this.entry)
        if self._this.frame is not None:
            vision = vision.one_frame(*self._this.frame)
        return vision.with_tokens(self.inputs()[0])

    def row_keys(self) -> Tensor:
        """The keys of the rows' questions; each frame of a video has its own where it is reduced by itself."""
        frame = 0 if self._this.frame is None else self._this.frame[0]
        return self.state.row_keys ^ (frame << 40)

    def grid(self) -> Grid:
        count = self._this.count
        side = math.isqrt(count)
        grid = self._this.grid or (side, side)
        if self._this.is_video and not self.method.sees_frames:
            raise TokenselError(
                f"method {self.method.name!r}: knows the rows and columns of pictures only, and this is a video; use "
                "scope=frame"
            )
        grid = (1, count) if grid == (1, 0) else grid
        if math.prod(grid) != count or self.state.positions is not None:
            raise TokenselError(
                f"method {self.method.name!r}: needs the picture's whole grid, not {count} visual tokens"
                + (" that an earlier stage left" if self.state.positions is not None else "")
            )
        return grid

    def frames(self) -> int:
        if self._this.is_video and self.state.positions is not None:
            raise TokenselError(f"method {self.method.name!r}: needs the whole video, not what an earlier stage left")
        return self._this.grid[0] if self._this.grid is not None and self._this.is_video else 1

    def attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor:
        if weights is not None:
            return self._attention(queries, weights, layer)
        known, key = self.state.attention_rows, (queries, layer, self.picture, len(self.state.pictures))
        if key not in known:
            known[key] = self._attention(queries, None, layer)
        return known[key].clone()  # a method may write into its own

    def _attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor:
        state = self.state
        hidden, module = self._entering(layer)
        index = self._index_of({"image": "visual"}.get(queries, queries), hidden)
        if queries == "text":
            instruction = self.text()[1].to(torch.float32)
            scaled = None if weights is None else weights.view(*instruction.shape, -1) * instruction.unsqueeze(2)
            weights = instruction if scaled is None else scaled
        rotary = self.parts.rotary(state.hidden, state.position_ids, self._number(layer))
        device = _device_of(module, state.hidden)
        hidden, cos, sin, visual, index = (each.to(device) for each in (hidden, *rotary, self.visual_index, index))
        blocks = None if state.token_types is None else picture_blocks(state.token_types)
        mask, weights, blocks = (
            None if each is None else each.to(device) for each in (state.attention_mask, weights, blocks)
        )
        rows = attention_to_visual(module, hidden, (cos, sin), mask, visual, index, weights, blocks)
        return rows.to(state.hidden.device)

    def _number(self, layer: str) -> int:
        """The number of the "previous" or the "next" decoder layer; before the first layer, that is the previous."""
        return self.state.layer if layer == "next" else max(self.state.layer - 1, 0)

    def _entering(self, layer: str) -> tuple[Tensor, Any]:
        """The hidden states that enter the "previous" or the "next" decoder layer, and that layer."""
        state = self.state
        if layer == "next":
            return state.hidden, self.parts.layers[state.layer]
        if state.previous is None:
            raise TokenselError(
                f"method {self.method.name!r}: must set uses_attention = True to see the previous layer"
            )
        return state.previous, self.parts.layers[state.layer - 1]

    def _index_of(self, tokens: str, hidden: Tensor) -> Tensor:
        """Where the "visual" tokens, the "text" or the "last" token are in the sequence: LongTensor[B, n]."""
        if tokens == "last":
            return last_real(self.state.attention_mask, hidden)
        return self._text_index if tokens == "text" else self.visual_index


def _device_of(module: Any, states: Tensor) -> torch.device:
    """The device to run a module on: layers of one model may lie on several; weights that accelerate has put aside are
    nowhere, and come to the states."""
    device = next(module.parameters()).device
    return states.device if device.type == "meta" else device
