"""Farthest point sampling on a CPU by lazy evaluation. The choices are those of `sampling.farthest_points`.

A token's distance to the chosen tokens only falls, and so does its product with a weight. An outdated value is
therefore an upper bound. A pool of the tokens with the largest bounds is copied as unit vectors and updated at every
step. All other tokens are updated only when the farthest token of the pool is no farther than the largest bound outside
it. If all tokens fit into the processor's cache, the pool holds all of them. Every step reads its own result, which
would be slow on a GPU.

Source: Minoux 1978, Accelerated greedy algorithms.
"""

import numpy as np
import torch
from torch import Tensor

from tokensel.functional.similarity import STEP

# A pool of POOL_VALUES values fits into a core's cache. A pool of fewer than LEAST_POOL tokens is soon exhausted.
POOL_VALUES = 2**18
LEAST_POOL = 64
# In the first steps the bounds fall so fast that a pool is not worth its copy.
FIRST_STEPS = 8


def farthest_points(tokens: Tensor, inverse: Tensor, start: Tensor, kept: int, weights: Tensor | None = None) -> Tensor:
    """tokens float32 [B, N, D], their inverse norms [B, N], start [B, 1] -> LongTensor[B, max(kept, 1)].

    weights: float32 [B, N], by which distances are multiplied; None = 1 each. The start is first. Ties go to the lowest
    index.
    """
    starts = start.squeeze(1).tolist()
    weighting: list[np.ndarray | None] = [None] * len(tokens) if weights is None else list(weights.numpy())
    orders = [_Picture(*row).choose(max(kept, 1)) for row in zip(tokens, inverse, starts, weighting, strict=True)]
    return torch.from_numpy(np.array(orders))


def pool_size(count: int, hidden: int) -> int:
    """The number of tokens in a pool, of `count` tokens with `hidden` values each."""
    return min(count, max(LEAST_POOL, POOL_VALUES // hidden))


def _first_farthest(distance: np.ndarray) -> int:
    """The lowest index among the largest distances; those within a rounding step count as equal."""
    return int((distance >= distance.max() - np.float32(STEP)).argmax())


class _Picture:
    """The tokens of one picture, [N, D], and the choices so far.

    distance: [N], every token's distance to the first `seen` [N] choices. weights: [N] or None.
    """

    def __init__(self, tokens: Tensor, inverse: Tensor, start: int, weights: np.ndarray | None) -> None:
        self.tokens, self.inverse, self.weights = tokens, inverse, weights
        self.order = [start]
        self.chosen = [(tokens[start] * inverse[start]).unsqueeze(0)]
        self.distance = np.full(len(tokens), np.inf, dtype=np.float32)
        self.seen = np.zeros(len(tokens), dtype=np.int64)

    def choose(self, kept: int) -> list[int]:
        size = pool_size(*self.tokens.shape)
        if size < len(self.tokens):
            while len(self.order) < min(kept, FIRST_STEPS):
                self._from_all()
        while len(self.order) < kept:
            if not self._from_pool(size, kept):
                self._from_all()
        return self.order

    def _updated(self, tokens: Tensor, distance: np.ndarray, seen: int, inverse: Tensor | None = None) -> np.ndarray:
        """The distances of tokens [n, D] to all choices, from those to the first `seen` choices, distance [n].

        inverse: the tokens' inverse norms [n]; None = the tokens are unit vectors.
        """
        new = torch.cat(self.chosen)[seen:]
        cosine = torch.mv(tokens, new[0]) if len(new) == 1 else torch.mm(new, tokens.t()).amax(0)
        if inverse is not None:
            cosine.mul_(inverse)
        return np.minimum(distance, 1 - cosine.numpy())

    def _weighted(self, distance: np.ndarray, pool: np.ndarray | None = None) -> np.ndarray:
        """The distances of all tokens, or of those of a pool, as they are ranked: multiplied by the weights."""
        if self.weights is None:
            return distance
        return distance * (self.weights if pool is None else self.weights[pool])

    def _from_all(self) -> None:
        """Makes one choice after updating all tokens."""
        self.distance = self._updated(self.tokens, self.distance, int(self.seen.min()), self.inverse)
        self.seen[:] = len(self.order)
        farthest = _first_farthest(self._weighted(self.distance))
        self.order.append(farthest)
        self.chosen.append((self.tokens[farthest] * self.inverse[farthest]).unsqueeze(0))

    def _from_pool(self, size: int, kept: int) -> bool:
        """Makes choices from a new pool while the farthest token is certainly in it; returns whether it made any."""
        border = len(self.distance) - size
        if border:
            bounds = self._weighted(self.distance)
            ranked = bounds.argpartition(border - 1)
            bound, pool = bounds[ranked[border - 1]], np.sort(ranked[border:])
            index = torch.from_numpy(pool)
            units = self.tokens.index_select(0, index).mul_(self.inverse.index_select(0, index).unsqueeze(1))
        else:
            bound, pool = -np.inf, np.arange(size)
            units = self.tokens * self.inverse.unsqueeze(1)
        seen = int(self.seen[pool].min())
        distance = self.distance[pool]
        if seen < len(self.order):
            distance = self._updated(units, distance, seen)
        picked: list[int] = []
        left = kept - len(self.order)
        while True:
            reach = self._weighted(distance, pool)
            best = _first_farthest(reach)
            # Otherwise a token outside may be as far and have a lower index.
            if not reach[best] > bound + STEP:
                break
            picked.append(best)
            if len(picked) == left:
                break
            cosine = torch.mv(units, units[best]).numpy()
            np.minimum(distance, np.subtract(1, cosine, out=cosine), out=distance)
        if picked:
            self.order += pool[picked].tolist()
            self.chosen.append(units[torch.tensor(picked)])
        self.distance[pool], self.seen[pool] = distance, len(self.order)
        return bool(picked)
