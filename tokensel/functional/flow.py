"""The importance of tokens by the flow of information to one token: what it attends to, agrees with and is large."""

import torch
from torch import Tensor


def token_importance(
    query: Tensor,
    keys: Tensor,
    value: Tensor,
    values: Tensor,
    seen: Tensor,
    *,
    skipped: int = 0,
    agreement: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """FlowCut's score of each token for one token that looks at them.

    query [B, heads, d] and value [B, key heads, d] of that token; keys and values [B, N, key heads, d]; seen BoolTensor
    [B, N]. Two distributions over the tokens seen, each averaged over heads: the attention, softmax(q k / sqrt(d)),
    and the agreement of values, softmax(agreement * v v_j). The first `skipped` tokens take part in both softmaxes, but
    get no score, and the rest is scaled to sum to 1. score = (attention + agreement) * |mean of the heads' values|_1.

    Returns the scores and the scaled attention, float32 [B, N - skipped]; both are 0 for tokens that are not seen.
    O(N heads d).

    Source: FlowCut (arXiv 2505.19536).
    """
    grouped = query.unflatten(1, (keys.shape[2], -1))  # [B, key heads, queries of each, d]
    attention = _share(grouped, keys, seen, query.shape[-1] ** -0.5, skipped)
    agreed = _share(value.unsqueeze(2), values, seen, agreement, skipped)
    size = values[:, skipped:].float().mean(2).abs().sum(2)
    return (attention + agreed) * size, attention


def _share(query: Tensor, keys: Tensor, seen: Tensor, scale: float, skipped: int) -> Tensor:
    """The mean of the heads' softmaxes without the first `skipped` tokens, scaled to sum to 1: [B, N - skipped]."""
    logits = torch.matmul(query, keys.permute(0, 2, 3, 1)).float() * scale
    logits = logits.masked_fill(~seen[:, None, None], torch.finfo(torch.float32).min)
    share = logits.softmax(-1).flatten(1, 2).mean(1)[:, skipped:] * seen[:, skipped:]
    return share / share.sum(1, keepdim=True)


def drop_count(attention: Tensor, left: Tensor, kept: int, rest: int) -> Tensor:
    """How many of the tokens still there FlowCut drops after a layer: float32 [B, 1], a whole number.

    attention [B, N], which sums to 1; left [B, 1]: the number of tokens still there; kept: how many remain in the end;
    rest: the number of layers that follow. The more evenly attention is spread, the fewer are dropped:
    (left - kept) / sqrt(rest) * (1 - (entropy / ln(left))^2), rounded half to even.

    Source: FlowCut (arXiv 2505.19536).
    """
    entropy = torch.special.entr(attention).sum(1, keepdim=True)
    evenness = entropy / left.log().clamp_min(torch.finfo(torch.float32).tiny)
    return ((left - kept) / rest**0.5 * (1 - evenness.square())).round()
