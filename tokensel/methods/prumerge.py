"""prumerge: the tokens that [CLS] attends to, with similar tokens merged into them."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import insert_last, kept_outliers, merge_outliers, outlier_counts, rank
from tokensel.functional.similarity import ROUNDING
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class PruMerge(Method):
    """Keep the tokens with the most [CLS] attention in the vision tower's last layer, and merge the others into them.

    [CLS] attends with one head over the full width of queries and keys. Each kept token adds the sum of the tokens with
    the most similar keys (cosine, all heads together), weighted by that attention; other kept tokens can be among them.
    The weighted sum of all tokens that were not chosen follows as one more token, so kept + 1 remain. All of it runs
    before the projector. Tokens are in the order of falling attention, and position ids are renumbered.

    Source: Shang et al., LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, ICCV 2025,
        https://arxiv.org/abs/2403.15388.
    Parameters:
        neighbours: the number of tokens that are merged into each kept token.
        adaptive: keep the outliers of the attention (by interquartile range), as the release does unless it is given a
            ratio. Their number depends on the picture; `kept` is then the largest number allowed.
    """

    name: ClassVar[str] = "prumerge"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    neighbours: int = 32
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise TokenselError(f"neighbours={self.neighbours!r}: must be an integer from 1")

    def select(self, context: Context) -> Selection:
        vision, kept = context.vision, context.kept
        attention, keys = vision.cls_attention_and_keys(-1, one_head=True)
        weights = attention.mean(1)
        positions, counts = self.choose(weights, kept)
        merge = partial(_merged, keys.flatten(2), weights, positions, self.neighbours, counts)
        indices, values = insert_last(positions, torch.full_like(positions[:, :1], -1), counts), merge(vision.features)
        return Selection(indices, vision.project(values), counts=counts + 1 if self.adaptive else None, merge=merge)

    def choose(self, attention: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """attention [B, N] -> tokens in their order, LongTensor[B, kept], and how many are chosen, LongTensor[B]."""
        # The order is part of the choice, so only rounding counts as a tie.
        order = rank(attention, ROUNDING)[:, :kept]
        if not self.adaptive:
            return order, torch.full_like(order[:, 0], kept)
        return order, kept_outliers(outlier_counts(attention), attention.shape[1]).clamp_max(kept)

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int | None:
        return None if self.adaptive else kept + 1

    def flops(self, sizes: Sizes) -> int:
        rows = self.remaining(sizes.kept, sizes.count) or sizes.kept + 1
        merging = 2 * sizes.count * ((rows - 1) * sizes.vision_width + sizes.feature_width)
        return sizes.cls_attention() + merging + rows * sizes.projector


def _merged(keys: Tensor, weights: Tensor, positions: Tensor, neighbours: int, counts: Tensor, along: Tensor) -> Tensor:
    """What lies along the tokens [B, N, C], merged by `merge_outliers`: [B, M + 1, C]."""
    return merge_outliers(along, keys, weights, positions, neighbours, counts)
