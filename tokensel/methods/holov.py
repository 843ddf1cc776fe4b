"""holov: a share of the tokens for each band of the picture, by [CLS] attention."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokensel.errors import TokenselError
from tokensel.functional import band_quotas, band_scores, keep_best, keep_in_bands, take
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class HoloV(Method):
    """Share the tokens among bands of the picture, and keep in each band what [CLS] attends to.

    It runs before the first layer, on the projected features and the [CLS] attention (mean over heads) of the vision
    tower's second-to-last layer. A band is a run of consecutive tokens; its quota is proportional to its mean attention
    plus the variety of its tokens' cosines. Survivors carry their own projected features.

    Source: Zou et al., Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention,
        NeurIPS 2025, https://arxiv.org/abs/2510.02912.
    Parameters:
        crops: the number of bands. null = 1024/576 * N / kept, the rule of the release for Qwen2.5-VL.
        weight: the share of variety in a band's score.
        as_released: the three quirks that "Our reading" names.
    Our reading: where a quota exceeds its band, the release fills up with zero vectors; here, with the tokens of the
        whole picture that have the largest attention. The release orders survivors by band and, inside it, by falling
        attention; here they are in the order of the picture. The release divides the attention of a band of one
        token by 1000; here it is like any other.
    """

    name: ClassVar[str] = "holov"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    only_layer: ClassVar[int | None] = 0
    default_position: ClassVar[str] = "renumber"
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    crops: int | None = 16
    weight: float = 0.09
    as_released: bool = False

    def __post_init__(self) -> None:
        if not (self.crops is None or self.crops >= 1) or not self.weight >= 0:
            raise TokenselError(f"crops={self.crops} weight={self.weight}: must be at least 1 (or null) and 0")
        self.returns_values = self.as_released  # type: ignore[misc]

    def select(self, context: Context) -> Selection:
        attention = context.vision.cls_attention().mean(1)
        chosen = keep_in_bands(attention, self.quotas(context, attention))[:, : context.kept]
        missing = chosen < 0
        if self.as_released:
            values = take(context.tokens, chosen.clamp_min(0)).masked_fill(missing.unsqueeze(2), 0)
            return Selection(chosen, values)
        # -1 is written to an extra place at the end.
        first = nn.functional.pad(attention, (0, 1)).scatter(1, chosen % (context.count + 1), torch.inf)[:, :-1]
        return Selection(keep_best(first, context.kept))

    def quotas(self, context: Context, attention: Tensor) -> Tensor:
        """The number of tokens of each band: LongTensor[B, P]. attention: [B, N]."""
        crops, lone = self._bands(context.kept, context.count), 1.0 if self.as_released else 1000.0
        return band_quotas(band_scores(context.tokens, attention, crops, self.weight, lone), context.kept)

    def flops(self, sizes: Sizes) -> int:
        bands = self._bands(sizes.kept, sizes.count)
        return sizes.cls_attention() + 2 * bands * math.ceil(sizes.count / bands) ** 2 * sizes.hidden

    def _bands(self, kept: int, count: int) -> int:
        rule = max(1, 1024 * count // (576 * kept))
        return min(count, rule if self.crops is None else self.crops)
