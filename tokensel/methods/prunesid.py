"""prunesid: [CLS], and tokens of each group that the picture's principal components make."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import keep_in_groups, principal_loadings, random_start, take
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes
from tokensel.models.vision import VisionStates


@register_method
@dataclass
class PruneSID(Method):
    """Group the tokens by principal components, and keep of each group tokens that are not redundant.

    It runs before the projector, on the features and the [CLS] attention (summed over heads) of the vision tower's
    second-to-last layer. A token belongs to the component on which it loads most. In a group, tokens similar to one
    with more attention are suppressed; groups share the tokens to keep by how many are left. [CLS] is one of the kept
    tokens and stands first; a tower without one gives one more patch instead.

    Source: Fang et al., PruneSID, https://arxiv.org/abs/2603.09480.
    Parameters:
        groups: the number of components. null = a quarter of kept.
        exact: components by an exact decomposition in float64, without seed; slower.
        seed: of the random matrix from which the components are approximated, the same for every picture.
        as_released: tokens group after group, not in the order of the picture.
    Our reading: the release draws the matrix unseeded; here the result is that of its code after
        torch.manual_seed(seed). Survivors are in the order of the picture, not scattered. Of groups with equally many
        tokens left the first comes first.
    """

    name: ClassVar[str] = "prunesid"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    groups: int | None = None
    exact: bool = False
    seed: int = 0
    as_released: bool = False

    def __post_init__(self) -> None:
        if self.groups is not None and self.groups < 1:
            raise TokenselError(f"groups={self.groups}: must be at least 1, or null")

    def select(self, context: Context) -> Selection:
        vision, own = context.vision, context.vision.cls
        seed = None if self.exact else self.seed
        chosen = _patches(vision, context.kept - (own is not None), self.groups, seed)
        chosen = chosen if self.as_released else chosen.sort(dim=1).values
        values = take(context.tokens, chosen)
        if own is None:
            return Selection(chosen, values)
        first = torch.full_like(context.row_keys, -1).unsqueeze(1)
        return Selection(torch.cat([first, chosen], 1), torch.cat([vision.project(own.unsqueeze(1)), values], 1))

    def flops(self, sizes: Sizes) -> int:
        kept, cls = sizes.kept - sizes.vision_cls, sizes.projector * sizes.vision_cls
        components = sizes.vision_components(_count(self.groups, kept, sizes.count, sizes.feature_width), self.exact)
        return cls + (sizes.cls_attention() + components + sizes.vision_cosines()) * (kept > 0)

    def draws(self, layer: int) -> bool:
        return not self.exact


def _patches(vision: VisionStates, kept: int, groups: int | None, seed: int | None) -> Tensor:
    """The visual tokens that are kept, group after group: LongTensor[B, kept]. seed None: exact components."""
    features = vision.features
    if kept == 0:
        return torch.empty(len(features), 0, dtype=torch.long, device=features.device)
    number = _count(groups, kept, *features.shape[1:])
    start = None if seed is None else random_start(features, number, seed)
    group = principal_loadings(features, number, start).argmax(2)
    return keep_in_groups(features, vision.cls_attention().sum(1), group, number, kept)


def _count(groups: int | None, kept: int, count: int, width: int) -> int:
    """The number of groups for `kept` of `count` patches beside [CLS]: a quarter of all that is kept unless given."""
    return max(1, min(groups or (kept + 1) // 4, kept, count, width))
