"""Selection by pairwise similarity: density peaks, a determinantal point process, and the least similar tokens.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Computation is float32 and the N x N matrix is never
held. The cosine of a zero vector with anything, itself included, is 0. Ties go to the lowest index.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, keep_best, rank, take
from tokensel.functional.similarity import ROUNDING, cosine_to, inverse_norms, query_cosines, unit_rows

# Rows of the distance matrix computed at a time; bounds memory.
BLOCK = 64
# A residual below this share of its initial value is float64's rounding error and counts as 0. A larger share would
# hide what tells near-duplicates apart.
EXHAUSTED = 1e-12
# A product of matrices computes about as many rows in the time of one product with a vector.
ROWS_AT_ONCE = 10


@torch.no_grad()
def dpc_knn(
    tokens: Tensor, kept: int, neighbours: int = 5, metric: str = "cosine", itself: bool = False
) -> tuple[Tensor, Tensor]:
    """Density peaks with k nearest neighbours: cluster centres are dense and far from any denser token.

    density_i = exp(-mean squared distance to the `neighbours` nearest other tokens); delta_i = the smallest distance to
    a denser token (for the densest token: the largest distance between two tokens). The M tokens with the highest
    density * delta are the centres, and every token joins the nearest centre. Of equally dense tokens the first counts
    as denser. itself: a token is one of its own nearest, at distance 0, as in the public code of TCFormer and
    SparseVLM.

    tokens: [B, N, D] -> centers LongTensor[B, min(kept, N)] by falling score, cluster LongTensor[B, N] of indices
    into centers; kept >= N returns arange(N) twice. neighbours is clamped to the number of tokens. metric: "cosine" for
    1 - cos, "euclidean" for |x - y| / sqrt(D). O(N^2 D), in blocks of rows.

    Raises TokenselError for kept < 1, neighbours < 1 or an unknown metric. Source: Du et al. 2016 (DPC-KNN); Zeng et
    al. 2022 (TCFormer); SparseVLM (arXiv 2410.04417).
    """
    check_kept(kept)
    if neighbours < 1:
        raise TokenselError(f"neighbours={neighbours}: must be at least 1")
    if metric not in ("cosine", "euclidean"):
        raise TokenselError(f"metric={metric!r}: must be 'cosine' or 'euclidean'")
    batch, count, _ = tokens.shape
    everyone = torch.arange(count, device=tokens.device).repeat(batch, 1)
    if kept >= count:
        return everyone, everyone.clone()
    points = _points(tokens.float(), metric)
    density = _log_density(points, everyone, min(neighbours, count - 1 + itself), metric, itself)
    # The logarithm of density * delta: the density itself would underflow to 0 or round to 1.
    score = density + _delta(points, everyone, density, metric).log()
    centers = rank(score, ROUNDING)[:, :kept]
    middles = take(points, centers)
    cluster = torch.cat([_distances(rows, middles, metric).argmin(2) for rows in points.split(BLOCK, 1)], 1)
    return centers, cluster.scatter(1, centers, everyone[:, :kept])


def _points(tokens: Tensor, metric: str) -> Tensor:
    """The tokens [B, N, D], scaled for `_distances`; "euclidean" also centres them: rounding grows with the norm."""
    if metric == "cosine":
        return tokens * inverse_norms(tokens).unsqueeze(-1)
    return (tokens - tokens.mean(1, keepdim=True)) / tokens.shape[-1] ** 0.5


def _distances(rows: Tensor, points: Tensor, metric: str) -> Tensor:
    """Distances of rows [B, K, D] to points [B, N, D] -> [B, K, N]; exactly 0 for tokens equal up to rounding."""
    products = torch.bmm(rows, points.transpose(1, 2))
    if metric == "cosine":
        distance = 1 - products
        return distance.masked_fill_(distance < ROUNDING, 0)
    norms = rows.square().sum(2).unsqueeze(2) + points.square().sum(2).unsqueeze(1)
    squared = norms - 2 * products
    return squared.masked_fill_(squared < ROUNDING * norms, 0).sqrt_()


def _log_density(points: Tensor, everyone: Tensor, neighbours: int, metric: str, itself: bool) -> Tensor:
    """log(density_i) of `dpc_knn`: [B, N]. everyone: arange(N) in each row, LongTensor[B, N]."""
    blocks = []
    for index in everyone.split(BLOCK, 1):
        distance = _distances(take(points, index), points, metric)
        distance = distance.scatter(2, index.unsqueeze(2), 0 if itself else torch.inf)
        nearest = distance.topk(neighbours, dim=2, largest=False).values
        blocks.append(-nearest.square().mean(2))
    return torch.cat(blocks, 1)


def _delta(points: Tensor, everyone: Tensor, density: Tensor, metric: str) -> Tensor:
    """delta_i of `dpc_knn`: [B, N]. density: [B, N], or its logarithm."""
    place = rank(density, ROUNDING).argsort(1)
    smallest, largest = [], []
    for index in everyone.split(BLOCK, 1):
        distance = _distances(take(points, index), points, metric)
        denser = place.unsqueeze(1) < place.gather(1, index).unsqueeze(2)
        smallest.append(distance.masked_fill(~denser, torch.inf).amin(2))
        largest.append(distance.amax((1, 2)))
    return torch.where(place == 0, torch.stack(largest, 1).amax(1, keepdim=True), torch.cat(smallest, 1))


@torch.no_grad()
def dpp_greedy(tokens: Tensor, quality: Tensor, kept: int) -> Tensor:
    """Greedy MAP of the determinantal point process with kernel L_ij = quality_i cos(x_i, x_j) quality_j.

    Each step adds the token that increases det(L_chosen) most. The factor of that increase is the token's residual: the
    part of L_ii that earlier choices do not explain. Once all residuals are 0 (after D choices), or 0 up to rounding
    (only duplicates, zero vectors or zero quality are left), the remaining tokens follow by index.

    tokens [B, N, D], quality [B, N] -> LongTensor[B, min(kept, N)] in the order of choice. Residuals are float64,
    because float32's error grows by 1 / residual with each choice of a near-duplicate. O(N M (D + M)), and `dpp_rows`
    rows of L are computed.

    Raises TokenselError for kept < 1. Source: Chen, Zhang, Zhou 2018, algorithm 1; CDPruner (arXiv 2506.10967).
    """
    return dpp_explained(tokens, quality, kept)[0]


@torch.no_grad()
def dpp_explained(tokens: Tensor, quality: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """`dpp_greedy`, and the share of L's trace that is explained after each choice: float32 [B, min(kept, N)].

    That is 1 - the sum of all tokens' residuals over their initial sum.
    """
    check_kept(kept)
    batch, count, size = tokens.shape
    kept = min(kept, count)
    steps = min(kept, size)
    tokens, quality = tokens.double(), quality.double()
    inverse = inverse_norms(tokens)
    cosines = (
        cosine_to(tokens, inverse, tokens * inverse.unsqueeze(2)) if dpp_rows(kept, count, size) == count else None
    )
    diagonal = quality.square() * tokens.any(2)
    residual = diagonal.clone()
    chosen = torch.zeros_like(residual, dtype=torch.bool)
    factor = tokens.new_zeros(batch, steps, count)
    order: list[Tensor] = []
    unexplained: list[Tensor] = []
    for step in range(steps):
        left = residual.masked_fill(chosen, -torch.inf)
        # Residuals span orders of magnitude, so ties are relative.
        current = (left >= left.amax(1, keepdim=True) * (1 - ROUNDING)).view(torch.uint8).argmax(1, keepdim=True)
        order.append(current)
        chosen.scatter_(1, current, True)
        if cosines is None:
            similarity = query_cosines(tokens, inverse, unit_rows(tokens, inverse, current)).squeeze(1)
        else:
            similarity = cosines.gather(1, current.unsqueeze(2).expand(-1, -1, count)).squeeze(1)
        row = similarity * quality * quality.gather(1, current)
        shares = factor[:, :step].gather(2, current.unsqueeze(1).expand(-1, step, -1))
        known = torch.bmm(shares.transpose(1, 2), factor[:, :step]).squeeze(1)
        pivot = residual.gather(1, current)
        column = torch.where(pivot > 0, (row - known) / pivot.sqrt(), 0)
        factor[:, step] = column
        residual = residual - column.square()
        residual.masked_fill_(residual < EXHAUSTED * diagonal, 0)
        unexplained.append(residual.sum(1, keepdim=True))
    others = chosen.view(torch.uint8).sort(dim=1, stable=True).indices[:, : kept - steps]
    total = diagonal.sum(1, keepdim=True)
    explained = 1 - torch.where(total > 0, torch.cat(unexplained, 1) / total, 0)
    explained = torch.nn.functional.pad(explained, (0, kept - steps), value=1.0)
    return torch.cat([*order, others], 1), explained.float()


def dpp_rows(kept: int, count: int, size: int) -> int:
    """How many rows of cosines `dpp_greedy` computes: one for each choice, or all at once where that is faster."""
    steps = min(kept, count, size)
    return count if count <= ROWS_AT_ONCE * steps else steps


@torch.no_grad()
def least_similar(tokens: Tensor, pivots: Tensor, kept: int, queries: Tensor | None = None) -> Tensor:
    """The pivots, and for each query an equal share of the tokens least similar to it by cosine.

    tokens [B, N, D], pivots LongTensor[B, P], distinct within a row, queries [B, Q, D] -> LongTensor[B, min(kept, N)]
    ascending. queries: None = the pivots themselves. The first query takes its whole share, the next chooses among the
    tokens that are left, and so on. The kept - P tokens are divided evenly; the first queries take one more if there is
    a remainder. If P > kept, only the first pivots are kept. O(N Q (D + log N)).

    Raises TokenselError for kept < 1, no pivots or no queries. Source: Wen et al. 2025 (DART, arXiv 2502.11494).
    """
    check_kept(kept)
    pivots = pivots[:, :kept]
    for name, given in (("pivots", pivots), ("queries", queries)):
        if given is not None and given.shape[1] < 1:
            raise TokenselError(f"{name}=[]: must hold at least one per row")
    tokens = tokens.float()
    inverse = inverse_norms(tokens)
    if queries is None:
        units = unit_rows(tokens, inverse, pivots)
    else:
        units = queries.float() * inverse_norms(queries.float()).unsqueeze(-1)
    chosen = torch.zeros_like(inverse, dtype=torch.uint8).scatter(1, pivots, 1)
    share, more = divmod(min(kept, tokens.shape[1]) - pivots.shape[1], units.shape[1])
    for turn, query in enumerate(units.split(1, dim=1)):
        similarity = cosine_to(tokens, inverse, query).squeeze(2)
        order = rank(-similarity.masked_fill(chosen.bool(), torch.inf), ROUNDING)
        chosen.scatter_(1, order[:, : share + (turn < more)], 1)
    return keep_best(chosen, kept)
