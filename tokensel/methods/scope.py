"""scope: tokens that cover the picture, weighted by [CLS] attention."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import greedy_coverage, inverse_norms, mean_coverage
from tokensel.functional.similarity import ROUNDING
from tokensel.methods.base import OrderingMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Scope(OrderingMethod):
    """Keep tokens that together resemble all tokens of the picture, salient ones first.

    It runs before the first layer, on the features before the projector and the [CLS] attention (summed over heads) of
    the vision tower's second-to-last layer. A set covers a token as well as the largest cosine of the two, at least 0.
    Each choice maximises its gain in coverage, summed over all tokens, times its saliency. Survivors are in the order
    of the picture and carry their own projected features.

    Source: Deng et al., SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, NeurIPS 2025,
        https://arxiv.org/abs/2510.24214.
    Parameters:
        alpha: the exponent of the saliency; 0 = coverage alone.
        combined: "multi" = gain * saliency^alpha, "add" = gain + saliency^alpha.
    """

    name: ClassVar[str] = "scope"
    default_coverage: ClassVar[float | None] = 0.61
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    alpha: float = 1.0
    combined: str = "multi"

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise TokenselError(f"alpha={self.alpha!r}: must be at least 0")
        if self.combined not in ("multi", "add"):
            raise TokenselError(f"combined={self.combined!r}: must be 'multi' or 'add'")

    def order(self, context: Context) -> torch.Tensor:
        features = context.vision.features.float()
        unit = features * inverse_norms(features).unsqueeze(-1)
        saliency = context.vision.cls_attention().sum(1) ** self.alpha
        # Cosines of the same two tokens differ by rounding; what is no more than that covers nothing new.
        cosine = torch.bmm(unit, unit.transpose(1, 2))
        return greedy_coverage(cosine, context.kept, saliency, self.combined, noise=ROUNDING)

    def coverage(self, context: Context, order: torch.Tensor) -> torch.Tensor:
        return mean_coverage(context.vision.features, order)

    def coverage_flops(self, sizes: Sizes) -> int:
        return 2 * sizes.kept * sizes.count * sizes.feature_width

    def flops(self, sizes: Sizes) -> int:
        return sizes.cls_attention() + sizes.vision_cosines()
