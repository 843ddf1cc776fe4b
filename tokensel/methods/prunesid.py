"""prunesid: [CLS], and tokens of each group that the picture's principal components make."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import keep_in_groups, principal_loadings, take
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class PruneSID(Method):
    """Group the tokens by principal components, and keep of each group tokens that are not redundant.

    It runs before the projector, on the features and the [CLS] attention (summed over heads) of the vision tower's
    second-to-last layer. A token belongs to the component on which it loads most. In a group, tokens similar to one
    with more attention are suppressed; groups share the tokens to keep by how many are left. [CLS] is one of the kept
    tokens and stands first.

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
    needs_cls: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    groups: int | None = None
    exact: bool = False
    seed: int = 0
    as_released: bool = False

    def __post_init__(self) -> None:
        if self.groups is not None and self.groups < 1:
            raise TokenselError(f"groups={self.groups}: must be at least 1, or null")

    def select(self, context: Context) -> Selection:
        cls = context.vision.project(cast(Tensor, context.vision.cls).unsqueeze(1))
        chosen = self.patches(context) if context.kept > 1 else context.row_keys.new_empty(len(cls), 0)
        indices = torch.cat([torch.full_like(context.row_keys, -1).unsqueeze(1), chosen], 1)
        return Selection(indices, torch.cat([cls, take(context.tokens, chosen)], 1))

    def patches(self, context: Context) -> Tensor:
        """The tokens that are kept beside [CLS]: LongTensor[B, M - 1]."""
        features, attention = context.vision.features, context.vision.cls_attention().sum(1)
        groups = self._groups(context.kept, *features.shape[1:])
        drawn = torch.randn(min(features.shape[1:]), groups, generator=torch.Generator().manual_seed(self.seed))
        loadings = principal_loadings(features, groups, None if self.exact else drawn.to(features.device))
        chosen = keep_in_groups(features, attention, loadings.argmax(2), groups, context.kept - 1)
        return chosen if self.as_released else chosen.sort(dim=1).values

    def flops(self, sizes: Sizes) -> int:
        if sizes.kept == 1:
            return sizes.projector
        groups = self._groups(sizes.kept, sizes.count, sizes.feature_width)
        components = sizes.vision_components(groups, self.exact)
        return sizes.cls_attention() + components + sizes.vision_cosines() + sizes.projector

    def draws(self, layer: int) -> bool:
        return not self.exact

    def _groups(self, kept: int, count: int, width: int) -> int:
        return max(1, min(kept // 4 if self.groups is None else self.groups, kept - 1, count, width))
