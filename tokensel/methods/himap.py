"""himap: two stages, first by the text's attention, then by the image's own."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.errors import TokenselError
from tokensel.functional import random_subset
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class HiMAP(Method):
    """Early layers carry the picture into the text, later ones work within the picture: rank accordingly.

    First stage: attention of the layer before, mean over heads, summed over the text after the picture. Every later
    one: the same summed over the visual tokens that are left. Survivors keep order and position ids. By the paper
    288 remain at layer 2 and 72 at layer 8; given one number, the first stage keeps four times as many. At layer 0
    there is no layer before, and a random subset stays.

    Source: Yin et al., Lifting the Veil on Visual Information Flow in MLLMs (CVPR 2025), and its release.

    cut_off_layer: all visual tokens leave before this decoder layer; None: never. seed: for layer 0.
    """

    name: ClassVar[str] = "himap"
    uses_attention: ClassVar[bool] = True
    default_layers: ClassVar[tuple[int, ...]] = (2, 8)

    cut_off_layer: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        layer = self.cut_off_layer
        if layer is not None and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 1):
            raise TokenselError(f"cut_off_layer={layer!r}: must be a layer from 1, or None")

    def select(self, context: Context) -> Selection:
        attention = context.attention("text" if context.stage == 0 else "image")
        if attention is None:
            return Selection(random_subset(self.seed, context.row_keys, context.count, context.kept))
        best = attention.mean(1).sort(dim=1, descending=True, stable=True).indices
        return Selection(best[:, : context.kept].sort(dim=1).values)

    def flops(self, sizes: Sizes) -> int:
        return sizes.attention("text" if sizes.stage == 0 else "image")

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return tuple(min(count, kept * 4 ** (stages - 1 - stage)) for stage in range(stages))

    def cut_off(self) -> int | None:
        return self.cut_off_layer

    def draws(self, layer: int) -> bool:
        return layer == 0
