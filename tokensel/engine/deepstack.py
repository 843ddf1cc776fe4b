"""Deepstack features: what the first decoder layers of Qwen3-VL add to the visual tokens behind them."""

from typing import Any

import torch
from torch import Tensor

from tokensel.functional import take
from tokensel.methods import Selection

Features = Tensor | None


def deepstack_arguments(features: Features, visual_index: Tensor, layer: int, length: int) -> dict[str, Any]:
    """The stock forward's arguments for a span that begins with decoder layer `layer`.

    features: [B, N, K, D], for each of the first K layers. visual_index: LongTensor[B, N], where the visual tokens are
    in a sequence of `length` tokens.
    """
    features = needed_from(features, layer)
    if features is None:
        return {}
    places = torch.zeros(len(visual_index), length, dtype=torch.bool, device=visual_index.device)
    # The stock forward gives the features to the places in the order of the sequence.
    ordered = take(features, visual_index.argsort(1))
    later = [each.flatten(0, 1) for each in ordered.unbind(2)[layer:]]
    return {"visual_pos_masks": places.scatter(1, visual_index, True), "deepstack_visual_embeds": later}


def needed_from(features: Features, layer: int) -> Features:
    """The features [B, N, K, D] if decoder layer `layer` or a later one adds some of them, else None."""
    return None if features is None or layer >= features.shape[2] else features


def with_features(tokens: Tensor, features: Features) -> Tensor:
    """Visual tokens [B, N, D] with their features behind them: [B, N, (1 + K) D]."""
    return tokens if features is None else torch.cat([tokens, features.flatten(2).to(tokens)], 2)


def split_features(carried: Tensor, width: int) -> tuple[Tensor, Features]:
    """What `with_features` joined, [..., (1 + K) D], as tokens [..., D] and features [..., K, D]. width: D."""
    behind = carried[..., width:]
    return carried[..., :width], behind.unflatten(-1, (-1, width)) if behind.shape[-1] else None


def features_at(features: Features, indices: Tensor) -> Features:
    """The features of the tokens at the indices LongTensor[B, M]: [B, M, K, D], and 0 where an index is -1."""
    if features is None:
        return None
    return take(features, indices.clamp_min(0)).masked_fill((indices < 0)[..., None, None], 0)


def features_of(selection: Selection, features: Features) -> Features:
    """The features [B, M, K, D] of survivors whose values a method has computed: merged as these were, where the method
    says how; else those of the token that each survivor is, and 0 for one that is none.

    features: [B, N, K, D], of all the picture's tokens.
    """
    if features is None:
        return None
    if selection.merge is not None:
        return selection.merge(features.flatten(2)).unflatten(2, features.shape[2:])
    indices, counts = selection.indices, selection.counts
    if counts is not None:
        places = torch.arange(indices.shape[1], device=indices.device)
        indices = torch.where(places < counts.unsqueeze(1), indices, -1)
    return features_at(features, indices)
