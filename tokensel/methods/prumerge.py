"""prumerge and prumerge_plus: what [CLS] looks at, each with its like merged in."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import weighted_merge
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class PruMerge(Method):
    """Keep the tokens that [CLS] attends to most in the tower's last layer, and merge the others into them.

    Every kept token gathers its most similar others (cosine of keys), weighted by their [CLS] attention, before the
    projector. Source: Shang et al., LLaVA-PruMerge (ICCV 2025). The original keeps the outliers of that attention (by
    interquartile range, another number for each picture); here `kept` says how many, in the same ranking, so that
    methods meet at equal cost. Our reading: attention is the mean over heads, and survivors stand in the picture's
    order, with position ids that close up.

    neighbours: how many others each kept token gathers.
    """

    name: ClassVar[str] = "prumerge"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    neighbours: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise TokenselError(f"neighbours={self.neighbours!r}: must be an integer from 1")

    def select(self, context: Context) -> Selection:
        vision = context.vision
        attention = vision.cls_attention(-1).mean(1)
        places = self.choose(attention, context.kept).sort(dim=1).values
        keys = vision.keys(-1).flatten(2)
        values = weighted_merge(vision.features, keys, attention, places, self.neighbours)
        return Selection(places, vision.project(values))

    def flops(self, sizes: Sizes) -> int:
        merging = 2 * sizes.kept * sizes.count * sizes.vision_width
        return sizes.cls_attention() + sizes.vision_keys() + merging + sizes.kept * sizes.projector

    def choose(self, attention: torch.Tensor, kept: int) -> torch.Tensor:
        """attention: [B, N] -> LongTensor[B, kept]."""
        return attention.sort(dim=1, descending=True, stable=True).indices[:, :kept]
