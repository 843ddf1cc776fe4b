"""The algorithms themselves: batched, stateless functions on tensors. No host synchronisation, no N x N matrix.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Half precision in, half precision out; similarity
and softmax are float32 inside. A zero row has cosine 0 to everything, itself included.
"""

from itertools import pairwise

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import centers_cpu as central
from tokensel.functional import farthest_cpu as farthest
from tokensel.functional import kernels

EPSILON = 1e-12
ROUNDING = 1e-6
# Scores closer to the best than this tie with it: processors round differently.
TIE = 1e-5
PERIPHERAL_BLOCK = 64


def inverse_norms(tokens: Tensor) -> Tensor:
    """1 / max(|token|, 1e-12) of tokens [..., D] -> [...]. Kept apart so that no normalised copy is written."""
    return torch.linalg.vector_norm(tokens, dim=-1).clamp_min(EPSILON).reciprocal()


def cosine_to(tokens: Tensor, inverse: Tensor, queries: Tensor) -> Tensor:
    """Cosines of tokens [B, N, D], whose inverse norms are [B, N], with unit queries [B, K, D] -> [B, N, K]."""
    return _similarity(tokens, inverse, queries).transpose(1, 2)


def _similarity(tokens: Tensor, inverse: Tensor, queries: Tensor) -> Tensor:
    """cosine_to with the queries first: [B, K, N]. Few queries times many tokens is the faster product."""
    if queries.shape[:2] == (1, 1):  # a plain matrix-vector product takes less to start than a batched one
        return (torch.mv(tokens[0], queries[0, 0]) * inverse[0]).view(1, 1, -1)
    return torch.bmm(queries, tokens.transpose(1, 2)).mul_(inverse.unsqueeze(1))


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows of tokens [B, N, ...] at indices [B, M] -> [B, M, ...]. Copies whole rows: gather goes value by value."""
    batch, count = tokens.shape[:2]
    if batch == 1:
        return tokens.index_select(1, indices[0])
    rows = indices + torch.arange(0, batch * count, count, device=tokens.device).unsqueeze(1)
    return tokens.flatten(0, 1).index_select(0, rows.flatten()).view(*indices.shape, *tokens.shape[2:])


def degrees(tokens: Tensor, inverse: Tensor) -> Tensor:
    """Sum over j of cos(i, j), self included: [B, N]. As x_i . sum_j x_j, so in O(N D)."""
    return cosine_to(tokens, inverse, torch.bmm(inverse.unsqueeze(1), tokens)).squeeze(-1)


def unit_rows(tokens: Tensor, inverse: Tensor, index: Tensor) -> Tensor:
    """The unit vectors of the tokens at index [B, K] -> [B, K, D]."""
    return take(tokens, index) * inverse.gather(1, index).unsqueeze(-1)


def first_of_best(scores: Tensor) -> Tensor:
    """The lowest index among the largest scores [B, K] -> LongTensor[B, 1]. Scores within 1e-5 of the largest tie."""
    return (scores >= scores.amax(1, keepdim=True) - TIE).to(torch.uint8).argmax(1, keepdim=True)


def check_kept(kept: int, least: int = 1) -> None:
    """Raises TokenselError for kept < least."""
    if kept < least:
        raise TokenselError(f"kept={kept}: must be at least {least}")


@torch.no_grad()
def farthest_point_sampling(
    tokens: Tensor,
    kept: int,
    start: int | str | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Farthest point sampling under the distance 1 - cosine: each choice is the farthest from all before it.

    tokens: [B, N, D]. Returns LongTensor[B, min(kept, N)] in the order of choice; the first is the start. Ties go to
    the lowest index. kept >= N returns arange(N); kept 0 still returns the start, as in the original. Chosen tokens
    are not excluded: once only duplicates of chosen tokens (or zero rows) are left, an index can come twice, as in
    the original. O(N M D); touches M rows only. On CUDA it is one kernel (kernels.py) where Triton is at hand; on a
    CPU distances that no choice hangs on are left out (farthest.py).

    start: None = random per row (from generator); an int = that index in all rows; LongTensor[B] = one per row;
    "medoid" = the token nearest to all others; "peripheral" = the one with the largest nearest-neighbour distance.

    Raises TokenselError for kept < 0 or an unknown start. Source: Gonzalez 1985; Eldar et al. 1997; DivPrune (CVPR
    2025) uses start="peripheral".
    """
    check_kept(kept, least=0)
    batch, count, _ = tokens.shape
    if kept >= count:
        return torch.arange(count, device=tokens.device).repeat(batch, 1)
    values = tokens.float()
    inverse = inverse_norms(values)
    first = _start(values, inverse, start, generator)
    if tokens.is_cuda and kernels.usable(tokens.device, _farthest):
        return kernels.farthest_points(tokens, inverse, first, kept)
    if _at_hand(values):
        return farthest.farthest_points(values, inverse, first, kept)
    return _farthest(values, inverse, first, kept)


def _farthest(tokens: Tensor, inverse: Tensor, start: Tensor, kept: int) -> Tensor:
    """start [B, 1] and the choices that follow it: [B, max(kept, 1)].

    A step is one matrix-vector product, and beside a small one its other operations weigh: they write into buffers.
    """
    batch, count, size = tokens.shape
    rows, scales, across = tokens.flatten(0, 1), inverse.flatten(), tokens.transpose(1, 2)
    first = torch.arange(0, batch * count, count, device=tokens.device)
    one, distance = torch.ones_like(inverse), torch.empty_like(inverse)
    nearest = torch.full_like(inverse, torch.inf)
    query, scale = tokens.new_empty(batch, size), inverse.new_empty(batch)
    order = start.new_empty(max(kept, 1), batch)
    order[0] = start.squeeze(1)
    for current, following in pairwise(order.unbind()):
        index = current if batch == 1 else current + first
        torch.index_select(rows, 0, index, out=query)
        query.mul_(torch.index_select(scales, 0, index, out=scale).unsqueeze(1))
        if batch == 1:
            torch.mv(rows, query[0], out=distance[0])
        else:
            torch.bmm(query.unsqueeze(1), across, out=distance.unsqueeze(1))
        torch.sub(one, distance.mul_(inverse), out=distance)
        torch.minimum(nearest, distance, out=nearest)
        torch.argmax(nearest, 1, out=following)
    return order.t().contiguous()


def _start(
    tokens: Tensor,
    inverse: Tensor,
    start: int | str | Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    batch, count, _ = tokens.shape
    if start is None:
        device = generator.device if generator is not None else tokens.device
        drawn = torch.randint(count, (batch, 1), generator=generator, device=device)
        return drawn.to(tokens.device)
    if isinstance(start, Tensor):
        return start.view(batch, 1).to(tokens.device, torch.long)
    if start == "medoid":
        return degrees(tokens, inverse).argmax(1, keepdim=True)
    if start == "peripheral":
        # Two tokens that are each other's nearest tie, but for rounding.
        closest = _nearest_neighbour_cosine(tokens, inverse)
        return (closest <= closest.amin(1, keepdim=True) + ROUNDING).to(torch.uint8).argmax(1, keepdim=True)
    if isinstance(start, int) and not isinstance(start, bool):
        if not 0 <= start < count:
            raise TokenselError(f"start={start}: must be a token index from 0 to {count - 1}")
        return torch.full((batch, 1), start, device=tokens.device)
    raise TokenselError(f"start={start!r}: must be None, an index, 'medoid' or 'peripheral'")


def _nearest_neighbour_cosine(tokens: Tensor, inverse: Tensor) -> Tensor:
    """The largest cosine of each token with another one: [B, N], in blocks of rows so that no N x N is held."""
    blocks = []
    rows = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
    for index in rows.split(PERIPHERAL_BLOCK, dim=1):
        cosine = cosine_to(tokens, inverse, unit_rows(tokens, inverse, index))
        blocks.append(cosine.scatter(1, index.unsqueeze(1), -torch.inf).amax(1))
    return torch.cat(blocks, 1)


@torch.no_grad()
def tome_centers(tokens: Tensor, kept: int, iterations: int = 3) -> Tensor:
    """The medoid rule known as "tome": high-degree tokens as centres, each moved to its cluster's highest degree.

    degree_i = sum_j cos(i, j). Start from the M highest degrees; then, `iterations` times, assign every token to its
    most similar centre and move each centre to the member with the highest degree; an empty cluster keeps its
    centre. tokens: [B, N, D] -> LongTensor[B, min(kept, N)], by falling degree of the initial centre; kept >= N
    returns arange(N). Ties go to the lowest index. O(N M D) an iteration.

    Without parallel rows the start is a fixed point (anything of higher degree than a centre is itself a centre), so
    the outcome is the top-k by degree. This is the simplified form, not the original ToMe.

    Raises TokenselError for kept < 1.
    """
    check_kept(kept)
    batch, count, _ = tokens.shape
    if kept >= count:
        return torch.arange(count, device=tokens.device).repeat(batch, 1)
    tokens = tokens.float()
    if _at_hand(tokens):
        inverse, degree, centers, settled = central.rank(tokens, kept, EPSILON)
        if settled:  # every centre belongs to its own cluster, and stays
            return centers
    else:
        inverse = inverse_norms(tokens)
        degree = degrees(tokens, inverse)
        centers = degree.sort(dim=1, descending=True, stable=True).indices[:, :kept]
    each = torch.arange(kept, device=tokens.device).unsqueeze(1)
    for _ in range(iterations):
        cluster = _similarity(tokens, inverse, unit_rows(tokens, inverse, centers)).argmax(1, keepdim=True)
        member = cluster == each
        best = torch.where(member, degree.unsqueeze(1), -torch.inf).argmax(2)
        centers = torch.where(member.any(2), best, centers)
    return centers


def _at_hand(tokens: Tensor) -> bool:
    """Whether asking for a value waits for nobody: plain tokens on a CPU."""
    return tokens.device.type == "cpu" and type(tokens) is Tensor


def cross_attention(queries: Tensor, tokens: Tensor, temperature: float = 0.1) -> Tensor:
    """softmax(cos(queries, tokens) / temperature) @ tokens, without parameters.

    queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype. A zero query gives the plain mean.

    Raises TokenselError unless temperature > 0.
    """
    if not temperature > 0:
        raise TokenselError(f"temperature={temperature}: must be a number above 0")
    values, asked = tokens.float(), queries.float()
    cosine = _similarity(values, inverse_norms(values), asked * inverse_norms(asked).unsqueeze(-1))
    weights = (cosine / temperature).softmax(-1)
    return torch.bmm(weights, values).to(tokens.dtype)


def cluster_means(tokens: Tensor, cluster: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean of each of `count` clusters and its size. tokens [B, N, D], cluster LongTensor[B, N] -> float32
    [B, count, D] and [B, count]; an empty cluster has mean 0."""
    member = torch.nn.functional.one_hot(cluster, count).transpose(1, 2).to(torch.float32)
    size = member.sum(2)
    return torch.bmm(member, tokens.float()) / size.clamp_min(1).unsqueeze(2), size


def nearest_mean(queries: Tensor, tokens: Tensor) -> Tensor:
    """The mean of the tokens whose most similar query is this one; a query nobody is nearest to stays as it is.

    queries [B, M, D], tokens [B, N, D] -> [B, M, D] in the tokens' dtype. Ties go to the first query.
    """
    values, asked = tokens.float(), queries.float()
    cosine = cosine_to(values, inverse_norms(values), asked * inverse_norms(asked).unsqueeze(-1))
    mean, size = cluster_means(values, cosine.argmax(2), asked.shape[1])
    return torch.where(size.unsqueeze(2) > 0, mean, asked).to(tokens.dtype)


def text_raters(tokens: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
    """Which words speak of the picture: those whose share of the softmax over the text of visual x text products,
    averaged over visual tokens, is not below the mean of all words.

    tokens [B, N, D], text [B, S, D], text_mask BoolTensor[B, S] -> float32 [B, S], 1 / raters for a rater, else 0.
    Source: SparseVLM (ICML 2025), section 3.
    """
    product = torch.bmm(tokens.float(), text.float().transpose(1, 2))
    product = product.masked_fill(~text_mask.unsqueeze(1), torch.finfo(product.dtype).min)
    share = product.softmax(-1).mean(1)
    words = text_mask.sum(1, keepdim=True).clamp_min(1)
    rates = text_mask & (share >= share.sum(1, keepdim=True) / words)
    return rates / rates.sum(1, keepdim=True).clamp_min(1)
