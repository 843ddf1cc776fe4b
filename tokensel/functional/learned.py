"""Cross-attention with small learned projections, which begin as the parameter-free rule.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size, H heads, r rank. Half precision in, half precision
out; everything is float32 inside.
"""

from typing import Any

import torch
from torch import Tensor

from tokensel.functional.similarity import inverse_norms


def learned_attention(
    queries: Tensor,
    tokens: Tensor,
    *,
    query_down: Tensor,
    query_up: Tensor,
    key_down: Tensor,
    key_up: Tensor,
    temperature: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """How much each query gathers of each token in each head: [B, M, D], [B, N, D] -> float32 [B, H, M, N].

    Parameters: as for `learned_cross_attention`.
    """
    logits = _logits(queries, tokens, query_down, query_up, key_down, key_up, temperature)
    return _weighed(logits, weights).softmax(-1)


def learned_cross_attention(queries: Tensor, tokens: Tensor, **given: Any) -> Tensor:
    """What each query gathers of all tokens: queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype.

    Each head h compares by a cosine over the whole width, and gives its slice of the output, D / H entries:

        q = c + c A_h B_h         c: the queries;  query_down A [H, D, r], query_up B [H, r, D]
        k = x + x A'_h B'_h       x: the tokens;   key_down, key_up likewise
        v = x + x A'' B''         value_down [D, r], value_up [r, D], for all heads
        output_h = softmax(cos(q, k) / temperature_h) v_h         temperature [H]; v_h: columns of slice h

    These tensors are keyword arguments. With every B at zero and equal temperatures it equals `cross_attention`.
    width: the first entries of a token that are its hidden state; what stands behind them, in multiples of it, is
    averaged alike, slice by slice, and not projected; None = all. weights: [B, N], as for `cross_attention`.
    """
    return _attend(queries, tokens, **given)[0]


def counted_learned_attention(
    queries: Tensor, tokens: Tensor, *, weights: Tensor | None = None, real: Tensor | None = None, **given: Any
) -> tuple[Tensor, Tensor]:
    """`learned_cross_attention`, and how many tokens each query then stands for: [B, M, D] and float32 [B, M].

    A token counts in every head as in `counted_attention`; the heads' counts are averaged. real: BoolTensor[B, M], the
    queries that count. None = all.
    """
    gathered, logits, weighed = _attend(queries, tokens, weights=weights, **given)
    with torch.no_grad():
        log_shares = logits - weighed.logsumexp(-1, keepdim=True)
        if real is not None:
            log_shares = log_shares.masked_fill(~real[:, None, :, None], -torch.inf)
        shares = log_shares.softmax(2).mean(1)
        return gathered, (shares if weights is None else shares * weights.float().unsqueeze(1)).sum(2)


def _attend(
    queries: Tensor,
    tokens: Tensor,
    *,
    query_down: Tensor,
    query_up: Tensor,
    key_down: Tensor,
    key_up: Tensor,
    value_down: Tensor,
    value_up: Tensor,
    temperature: Tensor,
    width: int | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What each query gathers, and the logits of every head without and with the tokens' weights: [B, H, M, N]."""
    width = tokens.shape[-1] if width is None else width
    values = tokens.float()
    logits = _logits(queries[..., :width], tokens[..., :width], query_down, query_up, key_down, key_up, temperature)
    weighed = _weighed(logits, weights)
    heads = logits.shape[1]
    values = torch.cat([_moved(values[..., :width], value_down, value_up), values[..., width:]], -1)
    sliced = values.unflatten(-1, (-1, heads, width // heads)).permute(0, 3, 1, 2, 4)  # [B, H, N, parts, D / H]
    gathered = (weighed.softmax(-1) @ sliced.flatten(3)).unflatten(-1, (-1, width // heads))
    return gathered.permute(0, 2, 3, 1, 4).flatten(2).to(tokens.dtype), logits, weighed


def _logits(
    queries: Tensor,
    tokens: Tensor,
    query_down: Tensor,
    query_up: Tensor,
    key_down: Tensor,
    key_up: Tensor,
    temperature: Tensor,
) -> Tensor:
    """cos(q, k) / temperature of each head: float32 [B, H, M, N]."""
    q = _moved(queries.float().unsqueeze(1), query_down, query_up)
    k = _moved(tokens.float().unsqueeze(1), key_down, key_up)
    cosine = (q * inverse_norms(q).unsqueeze(-1)) @ k.transpose(2, 3) * inverse_norms(k).unsqueeze(2)
    return cosine / temperature.view(-1, 1, 1)


def _weighed(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Logits of tokens that are there as often as the weights [B, N] say; None = once each."""
    return logits if weights is None else logits + weights.float().log()[:, None, None]


def _moved(rows: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """rows + rows down up: [..., n, D]."""
    return rows + rows @ down @ up
