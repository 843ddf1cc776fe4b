"""The order in which CPython iterates over a set of integers. A published selection depends on it."""

import torch
from torch import Tensor

# From CPython's Objects/setobject.c: a search looks at RUN more slots behind the first one unless the table ends there,
# then jumps; each jump uses up SHIFT more bits of the value.
RUN = 9
SHIFT = 5
SMALLEST_TABLE = 8
LARGEST_BITS = 20


@torch.no_grad()
def set_order(values: Tensor) -> Tensor:
    """The order in which CPython iterates over a set into which these integers are inserted one after the other.

    values: LongTensor[B, P] with P >= 1, from 0 to 2^20 - 1 and distinct within a row -> LongTensor[B, P], indices into
    values. `[row[i] for i in order]` equals `list(set(row))`. O(P^2) for each row.

    Source: CPython 3.7 to 3.14, Objects/setobject.c. DART (arXiv 2502.11494) visits its pivots in this order.
    """
    batch, count = values.shape
    standing = torch.empty(batch, 0, dtype=torch.long, device=values.device)
    first, size = 0, SMALLEST_TABLE
    while True:
        # A table that is three fifths full grows, and takes its entries over in the order in which they stand.
        last = next((used for used in range(first + 1, count) if used * 5 >= (size - 1) * 3), count)
        new = torch.arange(first, last, device=values.device).expand(batch, -1)
        standing = _fill(torch.cat([standing, new], 1), values, size)
        if last * 5 < (size - 1) * 3:
            return standing
        first, size = last, _grown(last)


def _grown(used: int) -> int:
    size = SMALLEST_TABLE
    while size <= 4 * used:
        size *= 2
    return size


def _fill(order: Tensor, values: Tensor, size: int) -> Tensor:
    """The indices `order` [B, n] as they stand in a table after their values are inserted in this order."""
    used = order.shape[1]
    slots = _searched(values.gather(1, order), size)
    table = torch.full((len(values), size), -1, device=values.device)
    for index, searched in zip(order.split(1, 1), slots.unbind(1), strict=True):
        free = table.gather(1, searched) < 0
        table.scatter_(1, searched.gather(1, free.view(torch.uint8).argmax(1, keepdim=True)), index)
    return table.gather(1, (table < 0).view(torch.uint8).sort(dim=1, stable=True).indices[:, :used])


def _searched(values: Tensor, size: int) -> Tensor:
    """The slots at which each value may come to stand, in the order of the search: [B, n] -> [B, n, slots]."""
    mask, perturb, start = size - 1, values, values & (size - 1)
    starts = [start]
    # Once a value's bits are used up, each jump leads to a new slot, so n more jumps find a free one.
    for _ in range(LARGEST_BITS // SHIFT + values.shape[1]):
        perturb = perturb >> SHIFT
        start = (start * 5 + 1 + perturb) & mask
        starts.append(start)
    run = torch.arange(RUN + 1, device=values.device)
    first = torch.stack(starts, 2).unsqueeze(3)
    return torch.where(first + RUN <= mask, first + run, first).flatten(2)
