"""Tokens by degree on a CPU: three passes over the tokens and next to nothing else.

Beside passes of half a millisecond the start of every torch operation on a small vector counts; NumPy's cost less.
"""

import numpy as np
import torch
from torch import Tensor

# Degrees at least this far apart, in lengths of the sum of the unit vectors, differ by more than rounding.
DIFFERENT = 5e-7


# Unit vectors at least this far from each other are not parallel, whatever the rounding of their cosine.
APART = 0.004
COORDINATES = 64


def rank(tokens: Tensor, kept: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The `kept` tokens of highest degree of tokens float32 [B, N, D] on a CPU.

    Returns inverse norms [B, N], degrees [B, N], the tokens by falling degree, ties by index [B, M], and whether surely
    no two of them are parallel and none is zero.
    """
    values = tokens.numpy()
    inverse = np.sqrt(np.vecdot(values, values))
    np.reciprocal(np.maximum(inverse, epsilon, out=inverse), out=inverse)
    degree = np.empty_like(inverse)
    for row, scale, out in zip(tokens, inverse, degree, strict=True):
        total = torch.mm(torch.from_numpy(scale).unsqueeze(0), row)[0]
        np.multiply(torch.mv(row, total).numpy(), scale, out=out)
    order = np.argsort(-degree, axis=1, kind="stable")[:, :kept]
    sure = all(map(_all_different, values, inverse, degree, order))
    return torch.from_numpy(inverse), torch.from_numpy(degree), torch.from_numpy(order), sure


def _all_different(tokens: np.ndarray, inverse: np.ndarray, degree: np.ndarray, order: np.ndarray) -> bool:
    """rank's last word on one row of the batch: [N, D], [N], [N], [M].

    Parallel tokens have one degree and a zero token has 0. Those of which it might be so are looked at, by some of
    their coordinates.
    """
    top = degree[order]
    # The squared length of a sum of unit vectors is the sum of their degrees.
    rounding = DIFFERENT * max(float(degree.sum()), 1) ** 0.5
    size, gap = np.abs(top), top[:-1] - top[1:]
    if size.min() > rounding and gap.min(initial=np.inf) > rounding:
        return True
    doubtful = ~(size > rounding)
    alike = ~(gap > rounding)
    doubtful[1:] |= alike
    doubtful[:-1] |= alike
    some = order[doubtful]
    units = tokens[some, :COORDINATES] * inverse[some, np.newaxis]
    product = units @ units.T
    square = product.diagonal()
    distance = square[:, np.newaxis] + square - 2 * product
    np.fill_diagonal(distance, square)  # to the zero vector
    return bool(distance.min() >= APART**2)
