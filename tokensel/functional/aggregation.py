"""What the survivors carry: weighted means of all visual tokens.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Half precision in, half precision out; similarity,
softmax and means are float32 inside.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import first_of_best
from tokensel.functional.similarity import ROUNDING, cosine_to, inverse_norms, query_cosines


def cross_attention(queries: Tensor, tokens: Tensor, temperature: float = 0.1, width: int | None = None) -> Tensor:
    """softmax(cos(queries, tokens) / temperature) @ tokens, without parameters.

    queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype. A zero query gives the plain mean. width: how
    many of the D entries the cosine is taken of, the first ones; what stands behind them is averaged alike. None = all.

    Raises TokenselError unless temperature > 0.
    """
    if not temperature > 0:
        raise TokenselError(f"temperature={temperature}: must be a number above 0")
    values = tokens.float()
    compared, centers = values[..., :width], queries[..., :width].float()
    cosine = query_cosines(compared, inverse_norms(compared), centers * inverse_norms(centers).unsqueeze(-1))
    weights = (cosine / temperature).softmax(-1)
    return torch.bmm(weights, values).to(tokens.dtype)


def cluster_means(tokens: Tensor, cluster: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean and the size of each of `count` clusters.

    tokens [B, N, D], cluster LongTensor[B, N] -> means float32 [B, count, D], sizes float32 [B, count]. The mean of an
    empty cluster is 0.
    """
    member = torch.nn.functional.one_hot(cluster, count).transpose(1, 2).to(torch.float32)
    size = member.sum(2)
    return torch.bmm(member, tokens.float()) / size.clamp_min(1).unsqueeze(2), size


def nearest_mean(queries: Tensor, tokens: Tensor, width: int | None = None) -> Tensor:
    """Assigns every token to its most similar query (cosine) and returns the mean of each query's tokens.

    queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype. A query without tokens is returned as it is.
    Ties go to the first query. width: as for `cross_attention`.
    """
    if queries.shape[1] == 0:
        return queries
    values = tokens.float()
    compared, centers = values[..., :width], queries[..., :width].float()
    cosine = cosine_to(compared, inverse_norms(compared), centers * inverse_norms(centers).unsqueeze(-1))
    nearest = first_of_best(cosine, 2, ROUNDING).squeeze(2)
    mean, size = cluster_means(values, nearest, centers.shape[1])
    return torch.where(size.unsqueeze(2) > 0, mean, queries.float()).to(tokens.dtype)
