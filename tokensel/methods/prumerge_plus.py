"""prumerge_plus: prumerge with most of the tokens at a uniform stride."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import outlier_counts, outliers_at_stride, rank
from tokensel.methods.prumerge import PruMerge
from tokensel.methods.registry import register_method


@register_method
@dataclass
class PruMergePlus(PruMerge):
    """PruMerge with about three quarters of the kept tokens at a uniform stride over the picture.

    For n tokens that are kept for their attention, the stride is int(int(N / n) / times) from token 0; those kept for
    their attention come first, then the other strided ones in the order of the picture. The rest is prumerge's: all of
    them gather similar tokens, and kept + 1 remain.

    Source: Shang et al., LLaVA-PruMerge ("PruMerge+"), ICCV 2025, https://arxiv.org/abs/2403.15388.
    Parameters:
        neighbours: the number of tokens that are merged into each kept token.
        adaptive: n is the number of the attention's outliers, as in the release; the total depends on the picture and
            is at most `kept`: a picture with more gets the n that `kept` allows.
        times: how many tokens stand at the stride for each one that is kept for its attention.
        as_released: what the release does when it is given a ratio: half of `kept` by attention, half at a stride that
            begins in its middle, and tokens that are both are there twice.
    Our reading: `kept` is the total. n is the largest number that stays within it, and the tokens with the next highest
        attention fill it up. Where the release would choose `kept` tokens, the choice is the same.
    """

    name: ClassVar[str] = "prumerge_plus"

    times: int = 3
    as_released: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.times, int) or self.times < 1:
            raise TokenselError(f"times={self.times!r}: must be an integer from 1")

    def choose(self, attention: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        if not self.as_released or self.adaptive:
            outliers = outlier_counts(attention) if self.adaptive else None
            return outliers_at_stride(attention, kept, self.times, outliers)
        best, count = rank(attention)[:, : kept - kept // 2], attention.shape[1]
        step = int(1 / (best.shape[1] / count))
        stride = torch.arange(step // 2, count, step, device=best.device)[: kept // 2]
        return torch.cat([best, stride.expand(len(best), -1)], 1), torch.full_like(best[:, 0], kept)
