"""pact: prune what matters little to all, then cluster keys within a bounded radius and merge the clusters."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import (
    bounded_centers,
    bounded_centers_of_number,
    cluster_means,
    cosine_distances,
    density_order,
    keep_best,
    take,
)
from tokensel.methods.base import Method
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class Pact(Method):
    """Prune unimportant tokens, cluster the others by their keys, and keep each cluster's centre with its mean.

    Importance is the attention that a token receives from the mean query of everything up to the picture's end, before
    rotary embedding, averaged over heads, times the norm of its hidden state. Clusters are density peaks of the rotated
    keys: by falling density, a token farther than `cutoff` (1 - cosine) from all centres becomes one. A pruned token
    near a centre joins its cluster after all. Later layers add log(cluster size) to a centre's attention logits.

    Source: Dhouib et al., PACT: Pruning and Clustering-Based Token Reduction for Faster Visual Language Models, CVPR
        2025, https://arxiv.org/abs/2504.08966, and its release, https://github.com/orailix/PACT, which acts at layer 4.
    Parameters:
        cutoff: the clusters' radius, 0.21 in the release for LLaVA-OneVision-7B and 0.1 for Qwen2-VL-7B. How many
            centres remain depends on the picture, and `kept` means nothing. None: exactly `kept` remain.
        keep: the share of tokens that are not pruned, 0.8 in the release for Qwen2-VL-7B; never fewer than `kept`.
        recover: a pruned token joins the nearest centre within `recover` times the cutoff.
        clustering: False = pruning alone, to `kept` tokens, or with a cutoff to the share `keep`.
        proportional: weigh centres by their cluster's size in later layers.
    Our reading: with cutoff=None, each picture's cutoff is the largest found at which at least `kept` centres remain,
        and the `kept` densest of them stay. With several pictures, each is reduced by itself.
    """

    name: ClassVar[str] = "pact"
    default_layers: ClassVar[tuple[int, ...]] = (4,)
    returns_values: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    cutoff: float | None = None
    keep: float = 0.55
    recover: float = 1.5
    clustering: bool = True
    proportional: bool = True

    def __post_init__(self) -> None:
        _check(cutoff=(self.cutoff, 2), keep=(self.keep, 1), recover=(self.recover, 100))

    def select(self, context: Context) -> Selection:
        left = keep_best(_importance(context), _unpruned(self, context.kept, context.count))
        if not self.clustering:
            return Selection(left)
        keys = cast(Tensor, context.project("key", "visual", "next", rotary=True)).flatten(2)
        centers, cutoff = _centers(take(keys, left), context.kept, self.cutoff)
        cluster = _clusters(cosine_distances(keys, take(keys, left)), left, centers, cutoff * self.recover)
        means, sizes = cluster_means(context.tokens, cluster, left.shape[1] + 1)
        width, counts = (context.kept, None) if self.cutoff is None else (left.shape[1], centers.sum(1))
        first = (~centers).view(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
        weights = sizes.gather(1, first).clamp_min(1) if self.proportional else None
        merge = partial(_means, cluster=cluster, first=first, count=left.shape[1] + 1)
        return Selection(left.gather(1, first), take(means, first), weights, counts, merge)

    def flops(self, sizes: Sizes) -> int:
        return _flops(sizes, _unpruned(self, sizes.kept, sizes.count), self.clustering)

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int | None:
        if self.cutoff is None:
            return kept
        return None if self.clustering else _unpruned(self, kept, count)

    def decides_count(self) -> bool:
        return self.cutoff is not None


def _unpruned(method: Pact, kept: int, count: int) -> int:
    """How many of `count` tokens are not pruned."""
    share = max(1, int(count * method.keep))
    return share if method.decides_count() else max(kept, share) if method.clustering else kept


def _flops(sizes: Sizes, left: int, clusters: bool) -> int:
    length = sizes.count + sizes.text
    importance = 2 * length * (sizes.hidden * (sizes.query_width + sizes.key_width) + sizes.query_width)
    clustering = 2 * left * (left + sizes.count) * sizes.key_width + 2 * (left + 1) * sizes.count * sizes.hidden
    return importance + (sizes.keys() + clustering if clusters else 0)


def _check(**numbers: tuple[float | None, int]) -> None:
    for name, (value, most) in numbers.items():
        if value is not None and (isinstance(value, bool) or not 0 <= value <= most):
            raise TokenselError(f"{name}={value!r}: must be a number from 0 to {most}")


def _centers(keys: Tensor, kept: int, cutoff: float | None) -> tuple[Tensor, Tensor]:
    """Which of the keys [B, M, D] are centres, BoolTensor[B, M], and the radius, [B] or one for all."""
    distances = cosine_distances(keys, keys)
    order = density_order(distances)
    if cutoff is None:
        return bounded_centers_of_number(distances, order, kept)
    return bounded_centers(distances, order, cutoff), distances.new_tensor(cutoff)


def _importance(context: Context) -> Tensor:
    """Attention from the mean query of all up to the picture's end, times the norm of the hidden state: [B, N]."""
    before = context.before_picture
    parts = [(part, tokens) for part in ("query", "key") for tokens in ("visual", "text")]
    query, text_query, key, text_key = (cast(Tensor, context.project(*each, "next")) for each in parts)
    total = query.float().sum(1) + (text_query.float() * before[:, :, None, None]).sum(1)
    mean = total / (before.sum(1) + context.count)[:, None, None]
    keys = torch.cat([key, text_key], 1).float().permute(0, 2, 3, 1)  # [B, key heads, d, N + S]
    scores = torch.matmul(mean.unflatten(1, (keys.shape[1], -1)), keys) * query.shape[-1] ** -0.5
    hidden = torch.nn.functional.pad(~before, (context.count, 0))[:, None, None]
    received = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1).flatten(1, 2).mean(1)
    return received[:, : context.count] * context.tokens.float().norm(dim=-1)


def _clusters(distances: Tensor, left: Tensor, centers: Tensor, limit: Tensor) -> Tensor:
    """Each token's cluster, as its centre's index in `left`; M where it joins none: LongTensor[B, N].

    distances: [B, N, M] from all tokens to the unpruned ones. left: LongTensor[B, M]. centers: BoolTensor[B, M].
    limit: how far a pruned token may be from its centre, [B] or one for all.
    """
    count = left.shape[1]
    nearest = distances.masked_fill(~centers.unsqueeze(1), torch.inf).min(2)
    pruned = torch.ones(distances.shape[:2], dtype=torch.bool, device=left.device).scatter(1, left, False)
    far = nearest.values > limit.expand(len(left)).unsqueeze(1)
    cluster = nearest.indices.masked_fill(pruned & far, count)
    itself = torch.arange(count, device=left.device).expand_as(left)
    own = torch.where(centers, itself, cluster.gather(1, left))
    return cluster.scatter(1, left, own)


def _means(along: Tensor, cluster: Tensor, first: Tensor, count: int) -> Tensor:
    """Of what lies along the tokens, [B, N, C], the means of the clusters at `first`: [B, M, C]."""
    return take(cluster_means(along, cluster, count)[0], first)
