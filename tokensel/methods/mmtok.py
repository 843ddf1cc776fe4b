"""mmtok: tokens that cover the question and the picture."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.data.keywords import keywords
from tokensel.errors import TokenselError
from tokensel.functional import affinity_coverage, greedy_coverage, padding_patches, shared_affinity
from tokensel.methods.base import OrderingMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class MMTok(OrderingMethod):
    """Keep tokens that together cover the words of the question and the tokens of the picture.

    A word is covered as well as the largest share of its softmax, over cosines with the projected tokens, that a kept
    token has; a token of the picture likewise, by the vision tower's features before the projector. Each choice
    maximises its gain in the mean over the words plus alpha times the mean over the picture. Words are the decoder's
    embeddings of the bare question without function words; where no question is known, the instruction's hidden states.
    Patches wholly inside the bars that pad a picture to a square, as for LLaVA-1.5, are kept last, where the picture's
    size is known. It runs before the first layer; survivors are in the order of the picture, and position ids are
    renumbered.

    Source: Dong et al., MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs, 2025,
        https://arxiv.org/abs/2508.18264.
    Parameters:
        alpha: the weight of the picture beside the words.
        text_temperature: of the softmax over cosines with a word.
        vision_temperature: of the softmax over cosines with a token of the picture.
        as_released: where fewer patches than kept lie outside the bars, token 0 is repeated, as in the release.
    """

    name: ClassVar[str] = "mmtok"
    default_coverage: ClassVar[float | None] = 0.88
    coverage_is_free: ClassVar[bool] = True
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    as_released: bool = False

    def __post_init__(self) -> None:
        _check(self)

    def order(self, context: Context) -> Tensor:
        return _order_by(self, self.affinity(context), context)

    def ordered(self, context: Context) -> tuple[Tensor, Tensor]:
        affinity = self.affinity(context)
        order = _order_by(self, affinity, context)
        return order, affinity_coverage(affinity, order)

    def affinity(self, context: Context) -> Tensor:
        """How well each visual token covers each word, then each visual token, weighted: [B, N, S + N]."""
        if context.questions is None:
            words, real = context.text, context.text_mask
        else:
            words, real = context.embed_words([keywords(question) for question in context.questions])
        temperatures = self.text_temperature, self.vision_temperature
        return shared_affinity(context.tokens, words, real, context.vision.features, self.alpha, *temperatures)

    def flops(self, sizes: Sizes) -> int:
        # As many words as the prompt has other tokens: exact without a bare question, else the most there can be.
        return sizes.cosines(sizes.text) + sizes.vision_cosines()


def _order_by(method: MMTok, affinity: Tensor, context: Context) -> Tensor:
    """The order of choice by affinity [B, N, S + N], with what lies inside the bars last: LongTensor[B, kept]."""
    allowed = torch.ones(affinity.shape[:2], dtype=torch.bool, device=affinity.device)
    for row, size in enumerate(context.picture_sizes or ()):
        if size is not None and context.grid[0] == context.grid[1]:
            allowed[row, padding_patches(*size, patches=context.grid[0])] = False
    order = greedy_coverage(affinity, context.kept, allowed=allowed)
    return order.masked_fill(~allowed.gather(1, order), 0) if method.as_released else order


def _check(method: MMTok) -> None:
    """Raises TokenselError for an option out of its range."""
    if not method.alpha >= 0:
        raise TokenselError(f"alpha={method.alpha!r}: must be at least 0")
    for name in ("text_temperature", "vision_temperature"):
        if not getattr(method, name) > 0:
            raise TokenselError(f"{name}={getattr(method, name)!r}: must be above 0")
