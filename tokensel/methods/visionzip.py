"""visionzip: the tokens that [CLS] attends to, [CLS] itself, and means of the others."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import contextual_tokens, rank, take
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class VisionZip(Method):
    """Keep [CLS], the dominant tokens by its attention, and contextual tokens that summarise the others.

    It runs before the projector, with the [CLS] attention (summed over heads) and the keys (mean over heads) of the
    vision tower's second-to-last layer. Of the tokens that are not dominant, those at a uniform stride are targets.
    Each other token is assigned to the target with the most similar key, and a contextual token is a target plus the
    mean of the tokens assigned to it. [CLS]'s own state stands first, then the dominant tokens in the order of the
    picture, then the contextual ones.

    Source: Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025,
        https://arxiv.org/abs/2412.04467. Its budgets are 162 + 30, 108 + 20 and 54 + 10, where [CLS] is one of the
        first number.
    Parameters:
        contextual: the share of kept that is contextual.
        cls: whether [CLS] is one of the kept tokens; without it there is one more dominant token, as for vision towers
            without [CLS].
    """

    name: ClassVar[str] = "visionzip"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    contextual: float = 10 / 64
    cls: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.contextual <= 1:
            raise TokenselError(f"contextual={self.contextual!r}: must be from 0 to 1")

    def select(self, context: Context) -> Selection:
        cls = context.vision.cls if self.cls else None
        return zip_picture(context, cls, self._extra(context.kept, int(cls is not None)))

    def flops(self, sizes: Sizes) -> int:
        cls = int(self.cls and sizes.vision_cls)
        return sizes.cls_attention() + (cls + self._extra(sizes.kept, cls)) * sizes.projector

    def _extra(self, kept: int, cls: int) -> int:
        return min(round(self.contextual * kept), kept - cls)


def zip_picture(context: Context, cls: Tensor | None, contextual: int) -> Selection:
    """[CLS]'s state [B, D_vision] where it is given, the dominant tokens, and `contextual` contextual ones."""
    vision = context.vision
    attention, keys = vision.cls_attention_and_keys() if contextual else (vision.cls_attention(), None)
    order = rank(attention.sum(1))
    first = 0 if cls is None else 1
    split = context.kept - first - contextual
    dominant, rest = order[:, :split].sort(dim=1).values, order[:, split:].sort(dim=1).values
    indices, new = [dominant], []
    if cls is not None:
        indices.insert(0, torch.full_like(order[:, :1], -1))
        new.append(cls.unsqueeze(1))
    if keys is not None:
        rest_keys = take(keys.mean(2), rest)
        targets, values = contextual_tokens(take(vision.features, rest), rest_keys, contextual)
        indices.append(rest.gather(1, targets))
        new.append(values)
    # The dominant tokens are among the projected ones that the decoder was given; only what is new is projected here.
    made = vision.project(torch.cat(new, 1)) if new else context.tokens[:, :0]
    values = torch.cat([made[:, :first], take(context.tokens, dominant), made[:, first:]], 1)

    def merge(along: Tensor) -> Tensor:
        ours = take(along, dominant)
        return (
            ours
            if keys is None
            else torch.cat([ours, contextual_tokens(take(along, rest), rest_keys, contextual)[1]], 1)
        )

    return Selection(torch.cat(indices, 1), values, merge=merge if cls is None else None)
