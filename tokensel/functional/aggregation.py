"""What the survivors carry: weighted means of all visual tokens.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Half precision in, half precision out; similarity,
softmax and means are float32 inside.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import first_of_best
from tokensel.functional.similarity import ROUNDING, cosine_to, inverse_norms, query_cosines


def cross_attention(
    queries: Tensor,
    tokens: Tensor,
    temperature: float = 0.1,
    width: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """softmax(cos(queries, tokens) / temperature) @ tokens, without parameters.

    queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype. A zero query gives the plain mean. width: how
    many of the D entries the cosine is taken of, the first ones; what stands behind them is averaged alike. None = all.
    weights: [B, N] from 0, how many tokens each token stands for; log(weights) is added before the softmax, as if each
    token were there that often. None = 1 each.

    Raises TokenselError unless temperature > 0.
    """
    values = tokens.float()
    logits = _weighed(_logits(queries, values, temperature, width), weights)
    return torch.bmm(logits.softmax(-1), values).to(tokens.dtype)


def counted_attention(
    queries: Tensor,
    tokens: Tensor,
    temperature: float = 0.1,
    width: int | None = None,
    weights: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`cross_attention`, and how many tokens each query then stands for: [B, M, D] and float32 [B, M].

    A token counts for each query in proportion to the weight with which the query gathers it, and for all of them
    together as 1, or as its weight: a row's counts add up to N, or to its weights. real: BoolTensor[B, M], the queries
    that count; the others stand for nothing. None = all. The rest is as for `cross_attention`.
    """
    values = tokens.float()
    logits = _logits(queries, values, temperature, width)
    weighed = _weighed(logits, weights)
    gathered = torch.bmm(weighed.softmax(-1), values).to(tokens.dtype)
    with torch.no_grad():
        # A token's own weight is the same for all queries: left out, a token of weight 0 has shares too.
        log_shares = logits - weighed.logsumexp(-1, keepdim=True)
        if real is not None:
            log_shares = log_shares.masked_fill(~real.unsqueeze(2), -torch.inf)
        shares = log_shares.softmax(1)
        return gathered, (shares if weights is None else shares * weights.float().unsqueeze(1)).sum(2)


def _weighed(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Logits [B, M, N] of tokens that are there as often as the weights [B, N] say; None = once each."""
    return logits if weights is None else logits + weights.float().log().unsqueeze(1)


def _logits(queries: Tensor, tokens: Tensor, temperature: float, width: int | None) -> Tensor:
    """cos(queries, tokens) / temperature: float32 [B, M, N]."""
    if not temperature > 0:
        raise TokenselError(f"temperature={temperature}: must be a number above 0")
    compared, centers = tokens.float()[..., :width], queries[..., :width].float()
    return (
        query_cosines(compared, inverse_norms(compared), centers * inverse_norms(centers).unsqueeze(-1)) / temperature
    )


def cluster_means(tokens: Tensor, cluster: Tensor, count: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The mean and the size of each of `count` clusters.

    tokens [B, N, D], cluster LongTensor[B, N] -> means float32 [B, count, D], sizes float32 [B, count]. The mean of an
    empty cluster is 0. weights: [B, N] from 0, how many tokens each token stands for; None = 1 each. A size is the sum
    of the weights.
    """
    member = torch.nn.functional.one_hot(cluster, count).transpose(1, 2).to(torch.float32)
    if weights is not None:
        member = member * weights.float().unsqueeze(1)
    size = member.sum(2)
    least = 1.0 if weights is None else torch.finfo(torch.float32).tiny
    return torch.bmm(member, tokens.float()) / size.clamp_min(least).unsqueeze(2), size


def nearest_mean(queries: Tensor, tokens: Tensor, width: int | None = None, weights: Tensor | None = None) -> Tensor:
    """Assigns every token to its most similar query (cosine) and returns the mean of each query's tokens.

    queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype. A query without tokens is returned as it is.
    Ties go to the first query. width: as for `cross_attention`. weights: [B, N] from 0, how many tokens each token
    stands for in the mean; None = 1 each.
    """
    return counted_mean(queries, tokens, width, weights)[0]


def counted_mean(
    queries: Tensor, tokens: Tensor, width: int | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`nearest_mean`, and how many tokens each query then stands for, those of its mean: [B, M, D] and float32 [B, M].

    A row's counts add up to N, or to its weights.
    """
    if queries.shape[1] == 0:
        return queries, queries.new_zeros(queries.shape[:2], dtype=torch.float32)
    values = tokens.float()
    compared, centers = values[..., :width], queries[..., :width].float()
    cosine = cosine_to(compared, inverse_norms(compared), centers * inverse_norms(centers).unsqueeze(-1))
    nearest = first_of_best(cosine, 2, ROUNDING).squeeze(2)
    mean, size = cluster_means(values, nearest, centers.shape[1], weights)
    return torch.where(size.unsqueeze(2) > 0, mean, queries.float()).to(tokens.dtype), size
