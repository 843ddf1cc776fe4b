"""sparsevlm: rank by the attention of relevant text tokens, and recycle part of what is dropped."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensel.errors import TokenselError
from tokensel.functional import cluster_means, dpc_knn, rank, take
from tokensel.methods.base import Method, geometric
from tokensel.methods.context import Context, Selection
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes


@register_method
@dataclass
class SparseVLM(Method):
    """Rank visual tokens by the attention of those text tokens (raters) that are relevant to the picture.

    Raters are chosen by `text_raters` at the first layer. The score is their attention in the previous layer, averaged
    over raters and heads. The best 30% of the dropped tokens are clustered by density peaks, and the clusters' means
    follow the kept tokens.

    Source: Zhang et al., SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference,
        ICML 2025, https://arxiv.org/abs/2410.04417. The paper reduces after layers 2, 6 and 15 to 300, 200 and 110
        tokens for an average of 192, to 303, 110 and 36 for 128, and to 66, 30 and 17 for 64.
    Parameters:
        recycled: the share of the dropped tokens that is clustered.
        clusters: the share of kept that is cluster means; 0 = no recycling, as in the paper's later version, which also
            keeps position ids (position="source").
    Our reading: cluster means count towards kept and are a tenth of it. Position ids are renumbered. With a single
        kept, the number of tokens falls to it by equal factors.
    """

    name: ClassVar[str] = "sparsevlm"
    default_layers: ClassVar[tuple[int, ...]] = (3, 7, 16)
    default_position: ClassVar[str] = "renumber"
    returns_values: ClassVar[bool] = True
    uses_attention: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1

    recycled: float = 0.3
    clusters: float = 0.1

    def __post_init__(self) -> None:
        for name in ("recycled", "clusters"):
            if not 0 <= getattr(self, name) < 1:
                raise TokenselError(f"{name}={getattr(self, name)!r}: must be from 0 to below 1")

    def select(self, context: Context) -> Selection:
        visual, text = context.inputs
        attention = context.attention("text", weights=text_raters(visual, text, context.text_mask))
        if attention is None:
            raise TokenselError("agg_layer=0: sparsevlm ranks by the previous layer's attention; use agg_layer >= 1")
        order = rank(attention.mean(1))
        pool, merged = recycling(context.count, context.kept, self.recycled, self.clusters)
        kept = order[:, : context.kept - merged].sort(dim=1).values
        values = take(context.tokens, kept)
        if merged == 0:
            return Selection(kept, values)
        best = order[:, kept.shape[1] : kept.shape[1] + pool]
        members = take(context.tokens, best)
        centers, cluster = dpc_knn(members, merged, metric="euclidean")
        means = cluster_means(members, cluster, merged)[0].to(values.dtype)
        return Selection(torch.cat([kept, best.gather(1, centers)], 1), torch.cat([values, means], 1))

    def flops(self, sizes: Sizes) -> int:
        rating = 2 * sizes.image_count * sizes.text_count * sizes.hidden + sizes.attention("text")
        return rating + sizes.clustering(*recycling(sizes.count, sizes.kept, self.recycled, self.clusters))

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        return geometric(kept, count, stages)


def recycling(count: int, kept: int, recycled: float, clusters: float) -> tuple[int, int]:
    """The number of dropped tokens that are clustered, and the number of clusters."""
    pool = int(recycled * (count - kept))
    return pool, min(int(clusters * kept), pool)


def text_raters(tokens: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
    """The weight of every text token as a rater: float32 [B, S], 1 / (number of raters) for a rater, else 0.

    A token's relevance is its share of the softmax over the text of visual x text products, averaged over visual
    tokens. Raters are the instruction's tokens whose relevance is not below the mean of the instruction.

    tokens [B, N, D], text [B, S, D], text_mask BoolTensor[B, S].
    """
    product = torch.bmm(tokens.float(), text.float().transpose(1, 2))
    product = product.masked_fill(~text_mask.unsqueeze(1), torch.finfo(product.dtype).min)
    share = product.softmax(-1).mean(1)
    words = text_mask.sum(1, keepdim=True).clamp_min(1)
    rates = text_mask & (share >= share.sum(1, keepdim=True) / words)
    return rates / rates.sum(1, keepdim=True).clamp_min(1)
