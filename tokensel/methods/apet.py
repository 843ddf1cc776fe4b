"""apet: the tokens that a few basis tokens reconstruct worst, with the others merged into them."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import distant_points, keep_unexplained, row_scores
from tokensel.methods.base import Method, by_factor
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class ApET(Method):
    """Keep the tokens that a basis of a few tokens reconstructs worst. No attention is used.

    The basis is found by farthest point sampling (squared Euclidean distance), and every token's error is its distance
    from its best linear combination of the basis. Tokens with large errors remain, and dropped tokens are averaged into
    the most similar of them. The basis itself takes the last places of the ranking. It acts twice: before the projector
    (agg_layer=0) on the vision tower's features, and inside the decoder on hidden states. Position ids are renumbered.

    Source: ApET, https://arxiv.org/abs/2602.19870, and its release, https://github.com/MaQianKun0/ApET. Its budgets on
        LLaVA-1.5 are 288, 192 and 96 tokens before layer 0, and a third of them before layer 16.
    Parameters:
        basis: the number of basis tokens.
        ridge: added to the diagonal of the basis' Gram matrix; 0.1 in the release for Qwen2.5-VL.
        blend: the share of the basis token in what its place carries; 0.5 in the release for Qwen2.5-VL.
        start: the first basis token; None = random, from seed and the question's key.
        seed: used with start=None.
    Our reading: a single kept is a third of what remains after the first stage, as in the release's budgets. With kept
        up to basis, where the release fails, the basis has kept - 1 tokens (at least one).
    """

    name: ClassVar[str] = "apet"
    default_layers: ClassVar[tuple[int, ...]] = (0, 16)
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    basis: int = 10
    ridge: float = 1e-5
    blend: float = 1.0
    start: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.basis, self.ridge, self.blend, self.start)

    def select(self, context: Context) -> Selection:
        at_tower = context.layer == 0
        tokens = context.vision.features if at_tower else context.tokens
        basis = distant_points(tokens, _basis(self.basis, context.kept), _start(self, context))
        settings = context.kept, basis, self.ridge, self.blend, at_tower
        positions, values = keep_unexplained(tokens, *settings)
        values = context.vision.project(values) if at_tower else values
        return Selection(positions, values, merge=partial(_merged, tokens, *settings))

    def flops(self, sizes: Sizes) -> int:
        at_tower = sizes.layer == 0
        width = sizes.feature_width if at_tower else sizes.hidden
        basis = _basis(self.basis, sizes.kept)
        targets = sizes.kept - min(basis, sizes.kept - 1)
        products = basis * (basis + 2 * sizes.count) + (sizes.count - sizes.kept) * targets
        return 2 * width * products + (sizes.kept * sizes.projector if at_tower else 0)

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return by_factor(3, kept, count, stages)

    def draws(self, layer: int) -> bool:
        return self.start is None


def _check(basis: int, ridge: float, blend: float, start: int | None) -> None:
    if not isinstance(basis, int) or basis < 1:
        raise TokenselError(f"basis={basis!r}: must be an integer from 1")
    if not ridge > 0:
        raise TokenselError(f"ridge={ridge!r}: must be a number above 0")
    if not 0 <= blend <= 1:
        raise TokenselError(f"blend={blend!r}: must be from 0 to 1")
    if start is not None and (not isinstance(start, int) or start < 0):
        raise TokenselError(f"start={start!r}: must be None or an index from 0")


def _basis(basis: int, kept: int) -> int:
    """The number of basis tokens where `kept` tokens remain."""
    return min(basis, max(1, kept - 1))


def _start(method: ApET, context: Context) -> Tensor:
    """The first basis token: LongTensor[B]."""
    drawn = method.start is None
    first = row_scores(method.seed, context.row_keys, 1)[:, 0] if drawn else context.row_keys * 0
    return (first + (method.start or 0)) % context.count


def _merged(
    tokens: Tensor, kept: int, basis: Tensor, ridge: float, blend: float, sort_places: bool, along: Tensor
) -> Tensor:
    """What lies along the tokens [B, N, C], merged as `keep_unexplained` merges them: [B, M, C]."""
    width = tokens.shape[2]
    both = torch.cat([tokens, along], 2)
    return keep_unexplained(both, kept, basis, ridge, blend, sort_places, width)[1][..., width:]
