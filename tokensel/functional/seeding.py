"""Random numbers that belong to a question, not to its place in a batch: a counter-based hash on tensors."""

import torch
from torch import Tensor

# Primes near 2^31: products of a 31-bit state with them stay inside int64, so no platform overflows differently.
_MULTIPLIERS = (0x2C1B3C6D, 0x297A2D39)
_MASK = (1 << 31) - 1


def _mix(state: Tensor) -> Tensor:
    """A 31-bit integer hash of int64 values (xor-shift and multiply, as in murmur's finaliser)."""
    for multiplier in _MULTIPLIERS:
        state = ((state ^ (state >> 15)) * multiplier) & _MASK
    return state ^ (state >> 14)


def row_scores(seed: int, row_keys: Tensor, count: int) -> Tensor:
    """Pseudo-random numbers that depend on (seed, row_key, index) only: LongTensor[B, count] in 0 .. 2^31 - 1.

    row_keys: LongTensor[B]. Neither the batch, nor the order, nor the device changes them.
    """
    low, high = row_keys & _MASK, (row_keys >> 31) & _MASK
    state = _mix(low ^ _mix(high ^ _mix(torch.full_like(row_keys, (seed ^ 0x5BD1E995) & _MASK))))
    index = torch.arange(count, device=row_keys.device)
    return _mix(state.unsqueeze(1) ^ _mix((index + 1) * 0x1000193 & _MASK))


def random_subset(seed: int, row_keys: Tensor, count: int, kept: int) -> Tensor:
    """`kept` of `count` indices drawn without replacement, ascending: LongTensor[B, kept].

    A smaller subset of the same row is contained in a larger one.
    """
    order = row_scores(seed, row_keys, count).sort(dim=1, stable=True).indices
    return order[:, :kept].sort(dim=1).values
