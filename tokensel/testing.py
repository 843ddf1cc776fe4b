"""A Context made from tensors, to test a method without a model.

    import torch
    from tokensel import make_method
    from tokensel.testing import make_context

    tokens = torch.randn(2, 36, 64)                 # 2 questions, 36 visual tokens, hidden size 64
    attention = torch.rand(2, 8, 36)                # 8 heads
    context = make_context(9, tokens=tokens, attention=attention)
    selection = make_method("fastv").select(context)
    assert selection.indices.shape == (2, 9)

Imports methods and what they import. For tests of users and of this project; no module of tokensel imports it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokensel.auto import Auto
from tokensel.errors import TokenselError
from tokensel.methods import Context
from tokensel.methods.context import PictureSizes
from tokensel.models.vision import ClsTower, VisionStates


def make_context(
    kept: int,
    *,
    tokens: Tensor,
    layer: int = 2,
    stage: int = 0,
    stages: int = 1,
    weights: Tensor | None = None,
    row_keys: Tensor | None = None,
    text: Tensor | None = None,
    text_mask: Tensor | None = None,
    before_picture: Tensor | None = None,
    inputs: tuple[Tensor, Tensor] | None = None,
    keys: Tensor | None = None,
    projections: Mapping[tuple[str, str], Tensor] | None = None,
    rotary: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    final_norm: Callable[[Tensor], Tensor] = lambda states: states,
    questions: Sequence[str] | None = None,
    picture_sizes: Sequence[tuple[int, int] | None] | None = None,
    words: Tensor | None = None,
    grid: tuple[int, ...] | None = None,
    attention: Tensor | Mapping[str, Tensor] | None = None,
    cls_attention: Tensor | None = None,
    vision_features: Tensor | None = None,
    vision_keys: Tensor | None = None,
    vision: VisionStates | None = None,
    auto: Auto | None = None,
) -> Context:
    """A Context that offers the given tensors; see `Context` for their meaning.

    kept: 0 <= kept <= N. tokens: [B, N, D]. auto: for `Method.adapt`, with a coverage; then kept is the most.
    weights: [B, N], how many tokens each stands for; default: None, as at the first stage.
    row_keys: LongTensor[B]; default 0 .. B - 1.
    text: [B, S, D]. text_mask: BoolTensor[B, S]; default: all of text is the instruction. before_picture: BoolTensor
        [B, S]; default: what is not the instruction.
    inputs: visual tokens [B, N0, D] and text [B, S, D] at the first layer; default: tokens and text.
    keys: [B, N, heads, d]. projections: what `Context.project` returns, by (part, tokens), as ("key", "visual"), for
        either layer, rotated or not. rotary: what `Context.rotary` returns, by tokens,
        as "visual". final_norm: the decoder's; default: the identity.
    questions: one text per row. words: [B, S, D], the embeddings of each row's words, whichever they are.
    picture_sizes: (width, height) or None for each row.
    grid: (rows, columns), or of a video (frames, rows, columns).
    attention: [B, heads, N], the attention summed over the queries, whichever they are and whatever their weights; or a
        mapping from "last", "text" or "image" to such a tensor. In the mapping, "text" and "image" may also be the
        attention of every query, [B, heads, S, N] or [B, heads, N, N], which is then summed with the method's weights;
        text outside the instruction counts 0. The previous and the next layer give the same attention.
    cls_attention [B, heads, N], vision_features [B, N, D_vision], vision_keys [B, N, heads, d]: what the vision tower
        computed, the same for every layer; the projector is then the identity. vision_features: tokens by default. For
        more, vision: `make_vision(...)`, or a ClsTower with layers of your own.

    Raises TokenselError for a kept out of range. A method that uses what was not given gets a TokenselError that names
    the missing argument.
    """
    batch, count = tokens.shape[:2]
    if not 0 <= kept <= count:
        raise TokenselError(f"kept={kept}: must be from 0 to {count}, the number of visual tokens")
    if text is not None and text_mask is None:
        text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    if before_picture is None and text_mask is not None:
        before_picture = ~text_mask
    if inputs is None and text is not None:
        inputs = tokens, text
    if vision is None and (cls_attention is not None or vision_features is not None or vision_keys is not None):
        features = tokens if vision_features is None else vision_features
        vision = make_vision(features, cls_attention=cls_attention, keys=vision_keys)
    given = {
        "text": text,
        "text_mask": text_mask,
        "before_picture": before_picture,
        "inputs": inputs,
        "keys": keys,
        "projections": projections,
        "rotary": rotary,
        "words": words,
        "grid": grid,
        "vision": vision,
        "attention": attention,
    }
    texts = None if questions is None else tuple(questions)
    sizes = None if picture_sizes is None else tuple(picture_sizes)
    return Context(
        kept=kept,
        count=count,
        layer=layer,
        row_keys=torch.arange(batch, device=tokens.device) if row_keys is None else row_keys,
        source=_GivenSource(tokens, given, texts, sizes, final_norm),
        stage=stage,
        stages=stages,
        weights=weights,
        auto=auto,
    )


def make_vision(
    features: Tensor,
    *,
    cls_attention: Tensor | None = None,
    keys: Tensor | None = None,
    cls: Tensor | None = None,
    project: Callable[[Tensor], Tensor] = lambda features: features,
) -> VisionStates:
    """What a vision tower computed, for make_context(vision=...).

    features: [B, N, D_vision]. cls_attention: [B, heads, N]. keys: [B, N, heads, d]. Both are returned for every layer.
    cls: [B, D_vision], the state of [CLS]; default: zeros.
    project: maps features [B, M, D_vision] to visual tokens [B, M, D]; default: the identity.

    A method that uses keys or attention that were not given gets a TokenselError.
    """
    first = torch.zeros_like(features[:, 0]) if cls is None else cls
    hidden = torch.cat([first.unsqueeze(1), features], 1)
    return _GivenVision((), (), hidden, project, cls_attention, keys)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _GivenSource:
    """A ContextSource that returns given tensors."""

    visual: Tensor
    given: Mapping[str, Any]
    texts: tuple[str, ...] | None
    sizes: PictureSizes | None
    norm: Callable[[Tensor], Tensor]

    def tokens(self) -> Tensor:
        return self.visual

    def text(self) -> tuple[Tensor, Tensor]:
        return self._get("text"), self._get("text_mask")

    def inputs(self) -> tuple[Tensor, Tensor]:
        return self._get("inputs")

    def keys(self) -> Tensor:
        return self._get("keys")

    def project(self, part: str, tokens: str, layer: str, rotary: bool) -> Tensor:
        found = self._get("projections").get((part, tokens))
        if found is None:
            raise _missing("projections", f"({part!r}, {tokens!r})")
        return found

    def rotary(self, tokens: str) -> tuple[Tensor, Tensor]:
        found = self._get("rotary").get(tokens)
        if found is None:
            raise _missing("rotary", repr(tokens))
        return found

    def final_norm(self, states: Tensor) -> Tensor:
        return self.norm(states)

    def before_picture(self) -> Tensor:
        return self._get("before_picture")

    def questions(self) -> tuple[str, ...] | None:
        return self.texts

    def picture_sizes(self) -> PictureSizes | None:
        return self.sizes

    def embed_words(self, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        words = self._get("words")
        return words, torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)

    def vision(self) -> VisionStates:
        return self._get("vision")

    def grid(self) -> tuple[int, ...]:
        return self._get("grid")

    def frames(self) -> int:
        grid = self.given["grid"]
        return 1 if grid is None or len(grid) == 2 else grid[0]

    def attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor:
        given = self._get("attention")
        found = given.get(queries) if isinstance(given, Mapping) else given
        if found is None:
            raise _missing("attention", f"the attention of {queries!r}")
        if found.ndim == 3:
            return found.clone()
        if queries == "text":
            mask = self.text()[1].to(found.dtype)
            weights = mask if weights is None else mask.unsqueeze(2) * weights.view(*mask.shape, -1)
        return (found if weights is None else found * weights.view(*weights.shape[:2], -1).unsqueeze(1)).sum(2)

    def _get(self, name: str) -> Any:
        if self.given[name] is None:
            raise _missing(name, f"context.{name}")
        return self.given[name]


@dataclass(frozen=True)
class _GivenVision(ClsTower):
    """VisionStates that return given tensors."""

    given_attention: Tensor | None
    given_keys: Tensor | None

    def keys(self, layer: int = -2) -> Tensor:
        if self.given_keys is None:
            raise TokenselError("vision_keys=None: the method uses them; give make_context(vision_keys=...)")
        return self.given_keys

    def cls_attention(self, layer: int = -2, one_head: bool = False) -> Tensor:
        if self.given_attention is None:
            raise TokenselError("cls_attention=None: the method uses it; give make_context(cls_attention=...)")
        return self.given_attention

    def cls_attention_and_keys(self, layer: int = -2, one_head: bool = False) -> tuple[Tensor, Tensor]:
        return self.cls_attention(layer, one_head), self.keys(layer)

    def rows(self, order: Tensor) -> ClsTower:
        attention, keys = (None if each is None else each[order] for each in (self.given_attention, self.given_keys))
        return replace(self, hidden=self.hidden[order], given_attention=attention, given_keys=keys)


def _missing(argument: str, used: str) -> TokenselError:
    return TokenselError(f"{argument}=None: the method uses {used}; give make_context({argument}=...)")
