"""A Context made from tensors, to test a method without a model.

    import torch
    from tokensel import make_method
    from tokensel.testing import make_context

    tokens = torch.randn(2, 36, 64)                 # 2 questions, 36 visual tokens, hidden size 64
    attention = torch.rand(2, 8, 36)                # 8 heads
    context = make_context(tokens, kept=9, attention=attention)
    selection = make_method("fastv").select(context)
    assert selection.indices.shape == (2, 9)

Imports methods and what they import. For tests of users and of this project; no module of tokensel imports it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.methods import Context
from tokensel.models.vision import VisionStates


def make_context(
    tokens: Tensor,
    kept: int,
    *,
    layer: int = 2,
    stage: int = 0,
    stages: int = 1,
    row_keys: Tensor | None = None,
    text: Tensor | None = None,
    text_mask: Tensor | None = None,
    inputs: tuple[Tensor, Tensor] | None = None,
    keys: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    attention: Tensor | Mapping[str, Tensor] | None = None,
    vision: VisionStates | None = None,
) -> Context:
    """A Context that offers the given tensors; see `Context` for their meaning.

    tokens: [B, N, D]. kept: 0 <= kept <= N.
    row_keys: LongTensor[B]; default 0 .. B - 1.
    text: [B, S, D]. text_mask: BoolTensor[B, S]; default: all of text is the instruction.
    inputs: visual tokens [B, N0, D] and text [B, S, D] at the first layer.
    keys: [B, N, heads, d]. grid: (rows, columns).
    attention: [B, heads, N], the attention summed over the queries, whichever they are and whatever their weights; or a
        mapping from "last", "text" or "image" to such a tensor. In the mapping, "text" and "image" may also be the
        attention of every query, [B, heads, S, N] or [B, heads, N, N], which is then summed with the method's weights;
        text outside the instruction counts 0. The previous and the next layer give the same attention.
    vision: what the vision tower computed, for example `make_vision(...)`.

    Raises TokenselError for a kept out of range. A method that uses what was not given gets a TokenselError that names
    the missing argument.
    """
    batch, count = tokens.shape[:2]
    if not 0 <= kept <= count:
        raise TokenselError(f"kept={kept}: must be from 0 to {count}, the number of visual tokens")
    if text is not None and text_mask is None:
        text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    return Context(
        kept=kept,
        count=count,
        layer=layer,
        row_keys=torch.arange(batch, device=tokens.device) if row_keys is None else row_keys,
        source=_GivenSource(
            tokens, {"text": text, "inputs": inputs, "keys": keys, "grid": grid, "vision": vision}, text_mask, attention
        ),
        stage=stage,
        stages=stages,
    )


def make_vision(
    features: Tensor,
    *,
    cls_attention: Tensor,
    keys: Tensor | None = None,
    project: Callable[[Tensor], Tensor] = lambda features: features,
) -> VisionStates:
    """What a vision tower computed, for make_context(vision=...).

    features: [B, N, D_vision]. cls_attention: [B, heads, N]. keys: [B, N, heads, d]. Both are returned for every layer.
    project: maps features [B, M, D_vision] to visual tokens [B, M, D]; default: the identity.

    A method that uses keys that were not given gets a TokenselError.
    """
    return _GivenVision((), (), features, project, cls_attention, keys)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _GivenSource:
    """A ContextSource that returns given tensors."""

    visual: Tensor
    given: Mapping[str, Any]
    text_mask: Tensor | None
    probabilities: Tensor | Mapping[str, Tensor] | None

    def tokens(self) -> Tensor:
        return self.visual

    def text(self) -> tuple[Tensor, Tensor]:
        text = self._get("text")
        assert self.text_mask is not None
        return text, self.text_mask

    def inputs(self) -> tuple[Tensor, Tensor]:
        return self._get("inputs")

    def keys(self) -> Tensor:
        return self._get("keys")

    def vision(self) -> VisionStates:
        return self._get("vision")

    def grid(self) -> tuple[int, int]:
        return self._get("grid")

    def attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor:
        given = self.probabilities
        found = given.get(queries) if isinstance(given, Mapping) else given
        if found is None:
            raise _missing("attention", f"the attention of {queries!r}")
        if found.ndim == 3:
            return found.clone()
        if queries == "text":
            mask = self.text()[1].to(found.dtype)
            weights = mask if weights is None else mask * weights
        return (found if weights is None else found * weights[:, None, :, None]).sum(2)

    def _get(self, name: str) -> Any:
        if self.given[name] is None:
            raise _missing(name, f"context.{name}")
        return self.given[name]


@dataclass(frozen=True)
class _GivenVision(VisionStates):
    """VisionStates that return given tensors."""

    given_attention: Tensor
    given_keys: Tensor | None

    def keys(self, layer: int = -2) -> Tensor:
        if self.given_keys is None:
            raise TokenselError("keys=None: the method uses the vision tower's keys; give make_vision(keys=...)")
        return self.given_keys

    def cls_attention(self, layer: int = -2) -> Tensor:
        return self.given_attention


def _missing(argument: str, used: str) -> TokenselError:
    return TokenselError(f"{argument}=None: the method uses {used}; give make_context({argument}=...)")
