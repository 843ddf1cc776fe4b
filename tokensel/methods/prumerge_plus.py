"""prumerge_plus: prumerge with spatially uniform samples beside the outliers."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.methods.prumerge import PruMerge
from tokensel.methods.registry import register_method


@register_method
@dataclass
class PruMergePlus(PruMerge):
    """PruMerge with part of its tokens at a uniform stride over the picture, chosen before merging.

    Source: Shang et al., LLaVA-PruMerge (ICCV 2025), "PruMerge+". Our reading: where a stride falls on a token that
    [CLS] has already chosen, the next by [CLS] attention takes its place.

    uniform: share of kept that stands at the stride.
    """

    name: ClassVar[str] = "prumerge_plus"

    uniform: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.uniform <= 1:
            raise TokenselError(f"uniform={self.uniform!r}: must be from 0 to 1")

    def choose(self, attention: torch.Tensor, kept: int) -> torch.Tensor:
        count, spread = attention.shape[1], round(self.uniform * kept)
        rank = attention.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
        at_stride = torch.zeros(count, dtype=torch.long, device=rank.device)
        at_stride[torch.arange(spread, device=rank.device) * count // max(spread, 1)] = 1
        # First the best of [CLS], then the stride, then whoever [CLS] likes next.
        score = 3 * count * (rank < kept - spread) + count * at_stride - rank
        return score.sort(dim=1, descending=True, stable=True).indices[:, :kept]
