"""Visual tokens chosen by how they lie among each other: density peaks, determinantal point process, least similar.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Everything is float32 inside and no N x N matrix is
held. A zero row has cosine 0 to everything, itself included. Ties go to the lowest index.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.sampling import ROUNDING, check_kept, cosine_to, inverse_norms, take, unit_rows

BLOCK = 64
# A residual of the determinant below this share of its start is rounding: more were chosen than dimensions.
EXHAUSTED = 1e-4


@torch.no_grad()
def dpc_knn(tokens: Tensor, kept: int, neighbours: int = 5, metric: str = "cosine") -> tuple[Tensor, Tensor]:
    """Density peaks with k nearest neighbours: centres are dense and far from anything denser.

    density_i = exp(-mean squared distance to the `neighbours` nearest others); delta_i = the smallest distance to a
    denser token (the largest distance for the densest); the M highest density * delta are the centres and every token
    joins the nearest. metric: "cosine" for 1 - cos, "euclidean" for |x - y| / sqrt(D). Of equally dense tokens the
    first counts as denser. neighbours is clamped to N - 1.

    tokens: [B, N, D] -> centers LongTensor[B, min(kept, N)] by falling score, cluster LongTensor[B, N] of indices
    into centers; kept >= N returns arange(N) twice. O(N^2 D), in blocks of rows.

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
    density = _log_density(points, everyone, min(neighbours, count - 1), metric)
    # As a logarithm, so that far tokens do not all have density 0 and near ones not all 1.
    score = density + _delta(points, everyone, density, metric).log()
    centers = score.sort(dim=1, descending=True, stable=True).indices[:, :kept]
    middles = take(points, centers)
    cluster = torch.cat([_distances(rows, middles, metric).argmin(2) for rows in points.split(BLOCK, 1)], 1)
    return centers, cluster.scatter(1, centers, everyone[:, :kept])


def _points(tokens: Tensor, metric: str) -> Tensor:
    """The tokens, scaled so that _distances needs nothing else. Centred first where rounding grows with the norm."""
    if metric == "cosine":
        return tokens * inverse_norms(tokens).unsqueeze(-1)
    return (tokens - tokens.mean(1, keepdim=True)) / tokens.shape[-1] ** 0.5


def _distances(rows: Tensor, points: Tensor, metric: str) -> Tensor:
    """Distances of rows [B, K, D] to points [B, N, D] -> [B, K, N]; exactly 0 between tokens equal but for rounding."""
    products = torch.bmm(rows, points.transpose(1, 2))
    if metric == "cosine":
        distance = 1 - products
        return distance.masked_fill_(distance < ROUNDING, 0)
    norms = rows.square().sum(2).unsqueeze(2) + points.square().sum(2).unsqueeze(1)
    squared = norms - 2 * products
    return squared.masked_fill_(squared < ROUNDING * norms, 0).sqrt_()


def _log_density(points: Tensor, everyone: Tensor, neighbours: int, metric: str) -> Tensor:
    blocks = []
    for index in everyone.split(BLOCK, 1):
        others = _distances(take(points, index), points, metric).scatter(2, index.unsqueeze(2), torch.inf)
        nearest = others.topk(neighbours, dim=2, largest=False).values
        blocks.append(-nearest.square().mean(2))
    return torch.cat(blocks, 1)


def _delta(points: Tensor, everyone: Tensor, density: Tensor, metric: str) -> Tensor:
    order = density.sort(dim=1, descending=True, stable=True).indices
    rank = order.argsort(1)
    blocks = []
    for index in everyone.split(BLOCK, 1):
        distance = _distances(take(points, index), points, metric)
        denser = rank.unsqueeze(1) < rank.gather(1, index).unsqueeze(2)
        smallest = distance.masked_fill(~denser, torch.inf).amin(2)
        blocks.append(torch.where(denser.any(2), smallest, distance.amax(2)))
    return torch.cat(blocks, 1)


@torch.no_grad()
def dpp_greedy(tokens: Tensor, quality: Tensor, kept: int) -> Tensor:
    """Greedy MAP of the determinantal point process with kernel L_ij = quality_i cos(x_i, x_j) quality_j.

    Each choice multiplies det(L_chosen) the most, by its residual: what the choices before it leave unexplained of
    L_ii. Once nothing is left but for rounding (more kept than dimensions, duplicates, zero rows or zero quality), the
    rest follows from the lowest index. tokens [B, N, D], quality [B, N] -> LongTensor[B, min(kept, N)] in the order of
    choice. O(N M (D + M)); touches M rows of L.

    Raises TokenselError for kept < 1. Source: Chen, Zhang, Zhou 2018, algorithm 1; CDPruner (arXiv 2506.10967).
    """
    check_kept(kept)
    batch, count, _ = tokens.shape
    kept = min(kept, count)
    tokens, quality = tokens.float(), quality.float()
    inverse = inverse_norms(tokens)
    diagonal = quality.square() * tokens.any(2)
    residual = diagonal.clone()
    chosen = torch.zeros_like(residual, dtype=torch.bool)
    factor = tokens.new_zeros(batch, count, kept)
    order: list[Tensor] = []
    for step in range(kept):
        current = residual.masked_fill(chosen, -torch.inf).argmax(1, keepdim=True)
        order.append(current)
        chosen.scatter_(1, current, True)
        similarity = cosine_to(tokens, inverse, unit_rows(tokens, inverse, current)).squeeze(2)
        row = similarity * quality * quality.gather(1, current)
        known = torch.bmm(factor[..., :step], take(factor, current)[..., :step].transpose(1, 2)).squeeze(2)
        pivot = residual.gather(1, current)
        column = torch.where(pivot > 0, (row - known) / pivot.sqrt(), 0)
        factor[..., step] = column
        residual = residual - column.square()
        residual.masked_fill_(residual < EXHAUSTED * diagonal, 0)
    return torch.cat(order, 1)


@torch.no_grad()
def least_similar(tokens: Tensor, pivots: Tensor, kept: int) -> Tensor:
    """The pivots, and for each its share of the tokens that are least similar to it by cosine.

    tokens [B, N, D], pivots LongTensor[B, P], distinct in a row -> LongTensor[B, min(kept, N)] ascending. Pivots take
    turns: one takes its whole share of what is not kept yet, then the next. The kept - P others are shared out
    evenly, one more to the first pivots where that does not come out. Of more than kept pivots the first remain.

    Raises TokenselError for kept < 1 or no pivots. Source: Wen et al. 2025 (DART, arXiv 2502.11494).
    """
    check_kept(kept)
    pivots = pivots[:, :kept]
    turns = pivots.shape[1]
    if turns < 1:
        raise TokenselError("pivots=[]: must be at least one index a row")
    tokens = tokens.float()
    inverse = inverse_norms(tokens)
    chosen = torch.zeros_like(inverse, dtype=torch.uint8).scatter(1, pivots, 1)
    share, more = divmod(kept - turns, turns)
    for turn, pivot in enumerate(pivots.split(1, dim=1)):
        similarity = cosine_to(tokens, inverse, unit_rows(tokens, inverse, pivot)).squeeze(2)
        order = similarity.masked_fill(chosen.bool(), torch.inf).sort(dim=1, stable=True).indices
        chosen.scatter_(1, order[:, : share + (turn < more)], 1)
    return chosen.sort(dim=1, descending=True, stable=True).indices[:, :kept]
