"""The tokens of highest degree, on a CPU, in three passes over the tokens.

A pass takes about half a millisecond, so the overhead of a torch operation on a small vector counts; NumPy's is lower.
"""

import numpy as np
import torch
from torch import Tensor

from tokensel.functional.indexing import rank
from tokensel.functional.similarity import DEGREE_ROUNDING

# Two degrees differ by more than rounding if they are at least this far apart, relative to the length of the sum of
# the unit vectors.
DIFFERENT = 5e-7
# Two unit vectors at least this far apart are not parallel, whatever the rounding of their cosine.
APART = 0.004
# The first coordinates of two vectors usually suffice to see that they differ.
COORDINATES = 64


def highest_degrees(tokens: Tensor, kept: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The `kept` tokens of highest degree of tokens float32 [B, N, D] on a CPU.

    Returns the inverse norms [B, N], the degrees [B, N], the indices by falling degree (ties: lowest index first)
    LongTensor[B, M], and whether these are settled: no two of them are parallel and none is zero, so each is the
    highest of its own cluster and no iteration moves it. False means that they may or may not be settled.
    """
    values = tokens.numpy()
    inverse = np.sqrt(np.vecdot(values, values))
    np.reciprocal(np.maximum(inverse, epsilon, out=inverse), out=inverse)
    degree = np.empty_like(inverse)
    for row, scale, out in zip(tokens, inverse, degree, strict=True):
        total = torch.mm(torch.from_numpy(scale).unsqueeze(0), row)[0]
        np.multiply(torch.mv(row, total).numpy(), scale, out=out)
    order = rank(torch.from_numpy(degree), DEGREE_ROUNDING).numpy()[:, :kept]
    settled = all(map(_all_different, values, inverse, degree, order))
    return torch.from_numpy(inverse), torch.from_numpy(degree), torch.from_numpy(order), settled


def _all_different(tokens: np.ndarray, inverse: np.ndarray, degree: np.ndarray, order: np.ndarray) -> bool:
    """Whether certainly no two of the tokens at `order` are parallel and none is zero: [N, D], [N], [N], [M].

    Parallel tokens have the same degree and a zero token has degree 0. Only tokens whose degree leaves this open are
    compared, by their first coordinates.
    """
    top = degree[order]
    # The squared length of the sum of the unit vectors is the sum of their degrees.
    rounding = DIFFERENT * max(float(degree.sum()), 1) ** 0.5
    size, gap = np.abs(top), top[:-1] - top[1:]
    if size.min() > rounding and gap.min(initial=np.inf) > rounding:
        return True
    doubtful = ~(size > rounding)
    alike = ~(gap > rounding)
    doubtful[1:] |= alike
    doubtful[:-1] |= alike
    compared = order[doubtful]
    units = tokens[compared, :COORDINATES] * inverse[compared, np.newaxis]
    product = units @ units.T
    square = product.diagonal()
    distance = square[:, np.newaxis] + square - 2 * product
    np.fill_diagonal(distance, square)  # the distance to the zero vector
    return bool(distance.min() >= APART**2)
