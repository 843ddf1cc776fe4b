"""sparsevlm: rank by the attention of relevant text tokens, and recycle part of what is dropped."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import cluster_means, dpc_knn, keep_best, rank, take
from tokensel.functional.indexing import TIE
from tokensel.methods.base import Method, geometric
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes

# Heads that score in version 2, and dropped tokens per cluster in version 1, as in the release.
HEADS, PER_CLUSTER = 14, 10


@register_method
@dataclass
class SparseVLM(Method):
    """Rank visual tokens by the attention of those text tokens (raters) that are relevant to the picture.

    Raters are chosen by `text_raters` at the first layer. The score is their attention in the previous layer, averaged
    over raters and heads. Of D dropped tokens the best int(recycled * D) + 1 are a pool; a tenth of the pool, plus one,
    is the number of clusters by density peaks, and the clusters' means follow the kept tokens: they come on top of
    kept.

    Source: Zhang et al., SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference,
        ICML 2025, https://arxiv.org/abs/2410.04417. It reduces after layers 2, 6 and 15 to 300, 200 and 110 tokens,
        303, 110 and 36, or 66, 30 and 17; with clusters 309, 204 and 113, 312, 117 and 39, or 82, 32 and 18. It names
        these budgets 192, 128 and 64, which are the averages over 32 layers if each reduction acted one layer earlier;
        where they act, the averages are 206.5, 145.4 and 82.2. Version 2 has 300, 200 and 118, 238, 108 and 60, or 66,
        34 and 20 for these names.
    Parameters:
        version: 1, or 2 for the release's later version: attention is divided by the product of rotated vectors of
            ones, only the 14 heads with the largest sums count, nothing is recycled, and tokens keep their positions.
        recycled: the share of the dropped tokens that is clustered; 0 = no recycling. Version 1 only.
    Our reading: with a single kept, the number of tokens falls to it by equal factors.
    """

    name: ClassVar[str] = "sparsevlm"
    default_layers: ClassVar[tuple[int, ...]] = (3, 7, 16)
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_attention: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    version: int | str = 1
    recycled: float = 0.3

    def __post_init__(self) -> None:
        if str(self.version) not in ("1", "2"):
            raise TokenselError(f"version={self.version!r}: choose from 1, 2")
        if not 0 <= self.recycled < 1:
            raise TokenselError(f"recycled={self.recycled!r}: must be from 0 to below 1")
        self.version = int(self.version)
        if self.version == 2:
            vars(self).update(default_position="source", returns_values=False)

    def select(self, context: Context) -> Selection:
        score = rater_attention(context, self.version == 2)
        if self.version == 2:
            return Selection(keep_best(score, context.kept))
        pool, clusters = recycling(context.kept, context.count, self.recycled)
        return with_clusters(context.tokens, rank(score), context.kept, pool, clusters)

    def remaining(self, kept: int, count: int, layer: int = 0, stage: int = 0) -> int | None:
        return kept if self.version == 2 else kept + recycling(kept, count, self.recycled)[1]

    def flops(self, sizes: Sizes) -> int:
        rating = 2 * sizes.image_count * sizes.text_count * sizes.hidden + sizes.attention("text")
        if self.version == 2:
            return rating + 2 * sizes.text * sizes.count * sizes.head_width
        return rating + sizes.clustering(*recycling(sizes.kept, sizes.count, self.recycled))

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return geometric(kept, count, stages)


def recycling(kept: int, count: int, recycled: float) -> tuple[int, int]:
    """The number of dropped tokens that are clustered, and the number of clusters; recycled = 0: none."""
    if recycled == 0 or kept >= count:
        return 0, 0
    pool = int(recycled * (count - kept)) + 1
    return pool, int(pool / PER_CLUSTER) + 1


def rater_attention(context: Context, corrected: bool) -> Tensor:
    """The raters' attention to each visual token in the previous layer, averaged over raters and heads: [B, N].

    corrected: as version 2 does it: divided by `rotary_products`, over the heads with the largest sums only.

    Raises TokenselError at layer 0.
    """
    visual, text = context.inputs
    weights = text_raters(visual, text, context.text_mask)
    if corrected:
        weights = weights.unsqueeze(2) / rotary_products(context.rotary("text"), context.rotary("visual"))
    attention = context.attention("text", weights=weights)
    if attention is None:
        raise TokenselError("agg_layer=0: sparsevlm ranks by the previous layer's attention; use agg_layer >= 1")
    if corrected:
        attention = take(attention, keep_best(attention.sum(2), HEADS))
    return attention.mean(1)


def with_clusters(tokens: Tensor, order: Tensor, kept: int, pool: int, clusters: int) -> Selection:
    """The best `kept` tokens in the order of the picture, and behind them the cluster means of the next `pool`.

    tokens [B, N, D], order LongTensor[B, N] by falling score. A mean has the index of its cluster's centre.
    """
    best, recycled = order[:, :kept].sort(dim=1).values, order[:, kept : kept + pool]
    if pool == 0:
        return Selection(best, take(tokens, best))
    centers, cluster = dpc_knn(take(tokens, recycled), clusters, neighbours=clusters, metric="euclidean", itself=True)

    def merge(along: Tensor) -> Tensor:
        means = cluster_means(take(along, recycled), cluster, clusters)[0]
        return torch.cat([take(along, best), means.to(along.dtype)], 1)

    return Selection(torch.cat([best, recycled.gather(1, centers)], 1), merge(tokens), merge=merge)


def text_raters(tokens: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
    """The weight of every text token as a rater: float32 [B, S], 1 / (number of raters) for a rater, else 0.

    A token's relevance is its share of the softmax over the text of visual x text products, averaged over visual
    tokens. Raters are the instruction's tokens whose relevance is above the mean of the instruction; all of them where
    none is.

    tokens [B, N, D], text [B, S, D], text_mask BoolTensor[B, S].
    """
    product = torch.bmm(tokens.float(), text.float().transpose(1, 2))
    product = product.masked_fill(~text_mask.unsqueeze(1), torch.finfo(product.dtype).min)
    share = product.softmax(-1).mean(1)
    mean = share.sum(1, keepdim=True) / text_mask.sum(1, keepdim=True).clamp_min(1)
    rates = text_mask & (share > mean * (1 + TIE))
    rates = torch.where(rates.any(1, keepdim=True), rates, text_mask)
    return rates / rates.sum(1, keepdim=True).clamp_min(1)


def rotary_products(text: tuple[Tensor, Tensor], visual: tuple[Tensor, Tensor]) -> Tensor:
    """Products of vectors of ones that are rotated to the positions of text and visual tokens, over sqrt(d).

    text: their cos and sin, [B, S, d]; visual: [B, N, d] -> float32 [B, S, N].
    """
    turned = []
    for cos, sin in (text, visual):
        half = cos.shape[-1] // 2
        turned.append(cos.float() + torch.cat([-sin[..., :half], sin[..., half:]], -1).float())
    return torch.bmm(turned[0], turned[1].transpose(1, 2)) * turned[0].shape[-1] ** -0.5
