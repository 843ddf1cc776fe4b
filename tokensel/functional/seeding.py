"""Random numbers that depend on the question and not on its place in a batch: a counter-based hash on tensors."""

import torch
from torch import Tensor

from tokensel.functional.indexing import keep_best

# Below 2^31: their products with a 31-bit state fit in int64, so no platform's overflow matters.
_MULTIPLIERS = (0x2C1B3C6D, 0x297A2D39)
_MASK = (1 << 31) - 1


def _mix(state: Tensor) -> Tensor:
    """A 31-bit hash of int64 values (xor-shift and multiply, as in MurmurHash's finaliser)."""
    for multiplier in _MULTIPLIERS:
        state = ((state ^ (state >> 15)) * multiplier) & _MASK
    return state ^ (state >> 14)


def row_scores(seed: int, row_keys: Tensor, count: int) -> Tensor:
    """Pseudo-random integers from 0 to 2^31 - 1, one for each of `count` tokens: LongTensor[B, count].

    row_keys: LongTensor[B], the key of each row's question. The integers depend on seed, key and index only, not on the
    batch, its order or the device. `random_subset` keeps the tokens with the smallest ones.
    """
    low, high = row_keys & _MASK, (row_keys >> 31) & _MASK
    state = _mix(low ^ _mix(high ^ _mix(torch.full_like(row_keys, (seed ^ 0x5BD1E995) & _MASK))))
    index = torch.arange(count, device=row_keys.device)
    return _mix(state.unsqueeze(1) ^ _mix((index + 1) * 0x1000193 & _MASK))


def random_subset(seed: int, row_keys: Tensor, count: int, kept: int) -> Tensor:
    """`kept` of `count` indices drawn without replacement, ascending: LongTensor[B, kept].

    row_keys: LongTensor[B]. For the same seed and key, a smaller subset is contained in a larger one.
    """
    return keep_best(-row_scores(seed, row_keys, count), kept)
