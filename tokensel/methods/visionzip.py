"""visionzip: the tokens that [CLS] attends to, and means of the others."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import contextual_tokens, rank, take
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class VisionZip(Method):
    """Keep the dominant tokens by [CLS] attention, and contextual tokens that summarise the others.

    It runs before the projector, with the [CLS] attention (summed over heads) and the keys (mean over heads) of the
    vision tower's second-to-last layer. Of the tokens that are not dominant, those at a uniform stride are targets.
    Each other token is assigned to the target with the most similar key, and a contextual token is a target plus the
    mean of the tokens assigned to it. Dominant tokens come first, in the order of the picture.

    Source: Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025,
        https://arxiv.org/abs/2412.04467. Its budgets are 162 + 30, 108 + 20 and 54 + 10.
    Parameters:
        contextual: the share of kept that is contextual.
    """

    name: ClassVar[str] = "visionzip"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    contextual: float = 10 / 64

    def __post_init__(self) -> None:
        if not 0 <= self.contextual <= 1:
            raise TokenselError(f"contextual={self.contextual!r}: must be from 0 to 1")

    def select(self, context: Context) -> Selection:
        vision, extra = context.vision, round(self.contextual * context.kept)
        order = rank(vision.cls_attention().sum(1))
        split = context.kept - extra
        dominant, rest = order[:, :split].sort(dim=1).values, order[:, split:].sort(dim=1).values
        if extra == 0:
            return Selection(dominant, vision.project(take(vision.features, dominant)))
        keys = vision.keys().mean(2)
        targets, values = contextual_tokens(take(vision.features, rest), take(keys, rest), extra)
        features = torch.cat([take(vision.features, dominant), values], 1)
        return Selection(torch.cat([dominant, rest.gather(1, targets)], 1), vision.project(features))

    def flops(self, sizes: Sizes) -> int:
        extra = round(self.contextual * sizes.kept)
        rest = sizes.count - sizes.kept + extra
        gathering = sizes.vision_keys() + 2 * rest * min(extra, rest) * sizes.vision_head_width if extra else 0
        return sizes.cls_attention() + gathering + sizes.kept * sizes.projector
