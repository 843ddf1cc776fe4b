"""prumerge_plus: prumerge with most of the tokens at a uniform stride."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import outlier_counts, outliers_at_stride, rank
from tokensel.functional.similarity import ROUNDING
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
        as_released: what the release does when it is given a ratio r: int(N r) tokens by attention, then every
            int(1 / r)-th from the middle of that stride, and tokens that are both are there twice.
        ratio: that r, where as_released; `kept` is then the largest total. null = half of kept, rounded up, of N.
    Our reading: `kept` is the total. n is the largest number that stays within it, and the tokens with the next highest
        attention fill it up. Where the release would choose `kept` tokens, the choice is the same.
    """

    name: ClassVar[str] = "prumerge_plus"

    times: int = 3
    as_released: bool = False
    ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def choose(self, attention: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        if not self.as_released or self.adaptive:
            outliers = outlier_counts(attention) if self.adaptive else None
            return outliers_at_stride(attention, kept, self.times, outliers)
        number, strided = _halves(kept, attention.shape[1], self.ratio)
        best, at_stride = rank(attention, ROUNDING)[:, :number], torch.tensor(strided, device=attention.device)
        positions = torch.cat([best, at_stride.long().expand(len(best), -1)], 1)[:, :kept]
        return positions, torch.full_like(best[:, 0], positions.shape[1])

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int | None:
        if self.ratio is None:
            return super().remaining(kept, count)
        number, strided = _halves(kept, count, self.ratio)
        return min(kept, number + len(strided)) + 1


def _halves(kept: int, count: int, ratio: float | None) -> tuple[int, range]:
    """How many tokens the release keeps by attention when it is given a ratio, and which ones at the stride."""
    if ratio is None:
        number = kept - kept // 2
        step = int(1 / (number / count))
        return number, range(step // 2, count, step)[: kept // 2]
    step = int(1 / ratio)
    return max(1, int(count * ratio)), range(step // 2, count - 1, step)


def _check(method: PruMergePlus) -> None:
    """Raises TokenselError for an option out of its range."""
    times, ratio = method.times, method.ratio
    if not isinstance(times, int) or times < 1:
        raise TokenselError(f"times={times!r}: must be an integer from 1")
    if ratio is not None and not 0 < ratio < 1:
        raise TokenselError(f"ratio={ratio!r}: must be above 0 and below 1, or null")
    if ratio is not None and (method.adaptive or not method.as_released):
        raise TokenselError(f"ratio={ratio!r}: needs as_released=true and adaptive=false")
