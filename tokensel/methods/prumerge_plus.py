"""prumerge_plus: prumerge with part of the tokens at a uniform stride."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import keep_best, rank
from tokensel.methods.prumerge import PruMerge
from tokensel.methods.registry import register_method


@register_method
@dataclass
class PruMergePlus(PruMerge):
    """PruMerge with part of the kept tokens at a uniform stride over the picture, chosen before merging.

    Source: Shang et al., LLaVA-PruMerge ("PruMerge+"), ICCV 2025, https://arxiv.org/abs/2403.15388.
    Parameters:
        neighbours: the number of tokens that are merged into each kept token.
        uniform: the share of kept that is chosen at the stride.
    Our reading: if a token at the stride is already kept for its [CLS] attention, the token with the next highest
        attention is kept instead.
    """

    name: ClassVar[str] = "prumerge_plus"

    uniform: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.uniform <= 1:
            raise TokenselError(f"uniform={self.uniform!r}: must be from 0 to 1")

    def choose(self, attention: torch.Tensor, kept: int) -> torch.Tensor:
        count, spread = attention.shape[1], round(self.uniform * kept)
        place = rank(attention).argsort(dim=1)
        at_stride = torch.zeros(count, dtype=torch.long, device=place.device)
        at_stride[torch.arange(spread, device=place.device) * count // max(spread, 1)] = 1
        # First the highest attention, then the stride, then the next highest attention.
        return keep_best(3 * count * (place < kept - spread) + count * at_stride - place, kept)
