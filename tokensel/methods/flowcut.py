"""flowcut: drop patches between the layers of the vision tower, by what flows from them to [CLS]."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import drop_count, keep_best, rank, take, token_importance
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes
from tokensel.models.tower_layer import project_heads, run_layer
from tokensel.models.vision import ClsTower


@register_method
@dataclass
class FlowCut(Method):
    """Drop patches after every second layer of the vision tower, until `kept` remain.

    A patch's score is (attention that [CLS] gives to it + agreement of its value with that of [CLS]) * size of its
    value, averaged over all layers so far, of which later ones count more. The more evenly attention is spread over the
    patches, the fewer are dropped. Nothing is merged. Inside the decoder (agg_layer > 0) the same score ranks visual
    tokens, for the prompt's last token in the previous layer. Position ids are renumbered.

    Source: Tong et al., FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models,
        https://arxiv.org/abs/2505.19536, and its release, https://github.com/TungChintao/FlowCut. It acts once, in the
        tower, on LLaVA-1.5, and again before layer 2 on LLaVA-NeXT.
    Parameters:
        as_released: drop as many patches from every picture of a batch as from the one that drops most, as the release
            does; a picture's patches then depend on the other pictures.
    Our reading: the release saves time in the tower. Here the tower runs in full, because other methods and the full
        model share it, and its layers from the first drop on run once more, with dropped patches masked; their cost
        counts as the selection's.
    """

    name: ClassVar[str] = "flowcut"
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_vision: ClassVar[bool] = True
    uses_attention: ClassVar[bool] = True
    needs_cls: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    as_released: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.as_released, bool):
            raise TokenselError(f"as_released={self.as_released!r}: must be true or false")

    def select(self, context: Context) -> Selection:
        if context.layer:
            return Selection(keep_best(decoder_importance(context), context.kept))
        positions, features = prune_tower(cast(ClsTower, context.vision), context.kept, self.as_released)
        return Selection(positions, context.vision.project(features))

    def flops(self, sizes: Sizes) -> int:
        if sizes.layer:
            values, query = 2 * sizes.count * sizes.key_width, 2 * sizes.query_width  # the keys are in the cache
            projected = sizes.hidden * (values + query + 2 * sizes.key_width)
            return projected + sizes.count * 2 * (sizes.query_width + sizes.key_width)
        return sizes.pruned_tower() + sizes.kept * sizes.projector


def decoder_importance(context: Context) -> Tensor:
    """`token_importance` for the prompt's last token in the decoder's previous layer: [B, N]."""
    query, value = (cast(Tensor, context.project(part, "last", rotary=True)).squeeze(1) for part in ("query", "value"))
    keys, values = (cast(Tensor, context.project(part, rotary=True)) for part in ("key", "value"))
    seen = torch.ones_like(keys[:, :, 0, 0], dtype=torch.bool)
    return token_importance(query, keys, value, values, seen, agreement=query.shape[-1] ** -0.5)[0]


def prune_tower(vision: ClsTower, kept: int, over_batch: bool = False) -> tuple[Tensor, Tensor]:
    """The patches that remain, LongTensor[B, kept] ascending, and their features without the others, [B, kept, D].

    over_batch: see FlowCut.as_released. Dropped patches are masked until `kept` are left, so no shape depends on the
    picture.
    """
    last = max(vision.through - 2, 0)  # the layer after which `kept` patches are left
    first = last % 2  # the layer after which the first patches are dropped
    left = torch.ones_like(vision.features[..., 0], dtype=torch.bool)
    states, importance = vision.entering[0], torch.zeros_like(left, dtype=torch.float32)
    for index in range(last + 1):
        seen = torch.nn.functional.pad(left, (1, 0), value=True)
        if index <= first:
            query, key, value = _looks_of_cls(vision.layers[index], vision.entering[index])
            states = vision.after(index)
        else:
            states, query, key, value = run_layer(vision.layers[index], states, seen)
        score, attention = token_importance(query[:, 0], key, value[:, 0], value, seen, skipped=1)
        importance = score if index == 0 else 0.5 * importance + 0.5 * score
        if (last - index) % 2 == 0 and index < last:
            left = _still_left(importance.masked_fill(~left, -1), attention, left, kept, last - index, over_batch)
    positions = keep_best(importance.masked_fill(~left, -1), kept)
    states = torch.cat([states[:, :1], take(states[:, 1:], positions)], 1)
    for index in range(last + 1, vision.through):
        states = run_layer(vision.layers[index], states)[0]
    return positions, states[:, 1:]


def _looks_of_cls(layer: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The query of [CLS] [B, 1, heads, d], and all keys and values [B, 1 + N, heads, d]."""
    normed = layer.layer_norm1(states)
    given = {"q_proj": normed[:, :1], "k_proj": normed, "v_proj": normed}
    query, key, value = (project_heads(layer, name, tokens) for name, tokens in given.items())
    return query, key, value


def _still_left(importance: Tensor, attention: Tensor, left: Tensor, kept: int, rest: int, over_batch: bool) -> Tensor:
    """The patches left after a drop: BoolTensor[B, N]."""
    count = left.sum(1, keepdim=True).float()
    dropped = drop_count(attention, count, kept, rest)
    if over_batch:
        dropped = dropped.amax(0, keepdim=True)
    place = rank(importance).argsort(1)
    return place < (count - dropped).clamp_min(kept)
