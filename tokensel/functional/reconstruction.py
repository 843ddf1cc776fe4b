"""Tokens that a few others do not explain: a basis by farthest points, and errors of its linear reconstructions.

Shapes: B rows of a batch, N visual tokens, K basis tokens, M kept, D hidden size. Half precision in, half precision
out; distances and products are float32 inside.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import TIE, first_of_best, rank, take
from tokensel.functional.nearest import merge_nearest
from tokensel.functional.similarity import EPSILON, ROUNDING


@torch.no_grad()
def distant_points(tokens: Tensor, count: int, start: Tensor) -> Tensor:
    """Farthest point sampling under the squared Euclidean distance.

    tokens [B, N, D], start LongTensor[B], the first point of each row -> LongTensor[B, min(count, N)] in the order of
    choice. Ties go to the lowest index. Chosen points are not excluded: once only duplicates of them are left, index 0
    comes again. O(N K D).

    Raises TokenselError for count < 1. Source: Gonzalez 1985; as in ApET (arXiv 2602.19870).
    """
    if count < 1:
        raise TokenselError(f"count={count}: must be at least 1")
    values = tokens.float()
    chosen = [start.unsqueeze(1)]
    nearest = torch.full(values.shape[:2], torch.inf, device=values.device)
    for _ in range(min(count, values.shape[1]) - 1):
        distance = (values - take(values, chosen[-1])).square_().sum(2)
        nearest = torch.minimum(nearest, distance)
        chosen.append(first_of_best(nearest / nearest.amax(1, keepdim=True).clamp_min(EPSILON), tolerance=ROUNDING))
    return torch.cat(chosen, 1)


def reconstruction_errors(tokens: Tensor, basis: Tensor, ridge: float = 1e-5) -> Tensor:
    """The distance of every token from its best linear combination of the basis tokens (ridge regression).

    tokens [B, N, D], basis LongTensor[B, K] of indices -> float32 [B, N]. The combination W^T X of basis tokens X
    solves (X X^T + ridge I) W = X tokens^T; it has no constant term. Only the K equations are solved in float64: equal
    basis tokens make them nearly singular. An error below 1e-5 of its token's norm is rounding and counts as 0.
    O(N K D).

    Source: ApET (arXiv 2602.19870).
    """
    values = tokens.float()
    points = take(values, basis)
    wide = points.double()
    gram = torch.bmm(wide, wide.transpose(1, 2)) + ridge * torch.eye(basis.shape[1], device=tokens.device).double()
    weights = torch.linalg.solve_ex(gram, torch.bmm(points, values.transpose(1, 2)).double())[0].float()
    errors = torch.linalg.vector_norm(values - torch.bmm(weights.transpose(1, 2), points), dim=2)
    return errors.where(errors > TIE * torch.linalg.vector_norm(values, dim=2), 0)


@torch.no_grad()
def keep_unexplained(
    tokens: Tensor,
    kept: int,
    basis: Tensor,
    ridge: float = 1e-5,
    blend: float = 1.0,
    sort_places: bool = True,
    width: int | None = None,
) -> tuple[Tensor, Tensor]:
    """ApET's selection: tokens with large `reconstruction_errors` remain, and the basis takes the last of their places.

    Of the `kept` tokens with the largest errors, the last K places are given to the basis tokens, in their order: a
    place carries blend * basis token + (1 - blend) * its own. The other kept tokens become the mean of themselves and
    of the dropped tokens that are most similar to them (`merge_nearest`).

    tokens [B, N, D], basis LongTensor[B, K] -> positions LongTensor[B, kept] ascending, values [B, kept, D] in the
    tokens' dtype. sort_places: the basis takes its places by ascending position, else by falling error. kept <= K: only
    the first kept - 1 basis tokens get a place. width: how many of the D entries errors and similarities are those of,
    the first ones; None = all. O(N (K + M) D).

    Raises TokenselError unless 1 <= kept <= N. Source: ApET (arXiv 2602.19870).
    """
    if not 1 <= kept <= tokens.shape[1]:
        raise TokenselError(f"kept={kept}: must be from 1 to {tokens.shape[1]}, the number of tokens")
    order = rank(reconstruction_errors(tokens[..., :width], basis, ridge), ROUNDING)
    split = kept - min(basis.shape[1], kept - 1)
    targets, places, rest = order[:, :split], order[:, split:kept], order[:, kept:]
    if sort_places:
        places = places.sort(dim=1).values
    returned = torch.lerp(take(tokens, places).float(), take(tokens, basis[:, : kept - split]).float(), blend)
    merged = merge_nearest(tokens, targets, rest, width)
    positions, ascending = torch.cat([targets, places], 1).sort(dim=1)
    return positions, take(torch.cat([merged, returned.to(tokens.dtype)], 1), ascending)
