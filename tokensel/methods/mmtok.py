"""mmtok: tokens that cover the question and the picture."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.data.keywords import keywords
from tokensel.errors import TokenselError
from tokensel.functional import greedy_coverage, padding_patches, shared_affinity
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
    It runs before the first layer; survivors are in the order of the picture, and position ids are renumbered.

    Source: Dong et al., MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs, 2025,
        https://arxiv.org/abs/2508.18264.
    Parameters:
        alpha: the weight of the picture beside the words.
        text_temperature: of the softmax over cosines with a word.
        vision_temperature: of the softmax over cosines with a token of the picture.
        picture_size: width and height of the picture before it was padded to a square of patches of 14 pixels, as
            LLaVA-1.5 does: patches wholly inside the bars are kept last. null = all patches are alike.
        as_released: where fewer patches than kept lie outside the bars, token 0 is repeated, as in the release.
    Our reading: the release knows each picture's size; a sweep does not, so that it leaves out no bars.
    """

    name: ClassVar[str] = "mmtok"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    picture_size: tuple[int, int] | None = None
    as_released: bool = False

    def __post_init__(self) -> None:
        _check(self)

    def order(self, context: Context) -> Tensor:
        affinity = self.affinity(context)
        allowed = torch.ones(affinity.shape[:2], dtype=torch.bool, device=affinity.device)
        if self.picture_size is not None:
            allowed[:, padding_patches(*self.picture_size, patches=context.grid[0])] = False
        order = greedy_coverage(affinity, context.kept, allowed=allowed)
        return order.masked_fill(~allowed.gather(1, order), 0) if self.as_released else order

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


def _check(method: MMTok) -> None:
    """Raises TokenselError for an option out of its range."""
    if not method.alpha >= 0:
        raise TokenselError(f"alpha={method.alpha!r}: must be at least 0")
    for name in ("text_temperature", "vision_temperature"):
        if not getattr(method, name) > 0:
            raise TokenselError(f"{name}={getattr(method, name)!r}: must be above 0")
    size = method.picture_size
    if size is not None and not (len(size) == 2 and min(size) > 0):
        raise TokenselError(f"picture_size={size!r}: must be [width, height] in pixels, or null")
