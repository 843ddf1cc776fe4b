"""Farthest point sampling on a GPU as one Triton kernel: no launch and no host synchronisation between two choices.

The N tokens of a row of the batch are divided among programs. At every step each program reads the latest choice,
updates its own tokens' distances, and submits the farthest of them to an atomic maximum over (distance, index), in
which equal distances go to the lowest index. Then the programs of the row wait for each other. If they cannot all run
at the same time, every step is a separate launch instead.

The tests run the arithmetic in Triton's interpreter, the waiting in processes that share memory, and both on a GPU if
there is one. docs/speed.md has the times on an H200. In addition, `usable` compares the kernel with the reference
implementation once on each device.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton  # type: ignore
    import triton.language as tl  # type: ignore
    from triton.language import constexpr  # type: ignore
except ImportError:  # CPU builds of PyTorch do not contain it
    triton = constexpr = None

# A key is an int64 that orders by distance, then by lower index: distance << 32 | (N - index).
LOWEST = -(2**63 - 1)
INDEX = 2**31 - 1
# Polls before a program stops waiting for the others, about a second. The choice is then N, which no token has.
PATIENCE = 2**20
LEAST_ROWS, MOST_ROWS = 8, 64
TILE = 16384
WARPS = 8


def _choose(
    tokens,
    inverse,
    nearest,
    keys,
    arrived,
    first,
    last,
    count,
    hidden,
    kept,
    programs,
    patience,
    ROWS: constexpr,
    COLUMNS: constexpr,
    WAIT: constexpr,
):
    """Steps first .. last - 1 for one program's tokens. Grid (programs, B).

    tokens: [B, N, D] of a float dtype. inverse: inverse norms, float32 [B, N]. nearest: distances to the choices so
    far, float32 [B, N]. keys: int64 [B, kept], known before `first`, LOWEST from there on. arrived: int32 [B], the
    number of steps that programs have finished, initially 0.
    """
    batch = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    tokens += batch.to(tl.int64) * count * hidden
    inverse += batch * count
    nearest += batch * count
    keys += batch * kept
    arrived += batch
    near = tl.load(nearest + rows, mask=inside, other=0.0)
    scale = tl.load(inverse + rows, mask=inside, other=0.0)
    for step in range(first, last):
        key = tl.atomic_add(keys + step - 1, tl.full((), 0, tl.int64), sem="acquire")
        current = count - (key & 0x7FFFFFFF).to(tl.int32)
        unit = tl.load(inverse + current, mask=current < count, other=0.0)
        product = tl.zeros((ROWS,), tl.float32)
        for begin in range(0, hidden, COLUMNS):
            columns = begin + tl.arange(0, COLUMNS)
            within = columns < tl.where(current < count, hidden, 0)
            query = tl.load(tokens + current * hidden + columns, mask=within, other=0.0).to(tl.float32)
            block = tl.load(
                tokens + rows[:, None] * hidden + columns[None, :], mask=inside[:, None] & within[None, :], other=0.0
            ).to(tl.float32)
            product += tl.sum(block * (query * unit)[None, :], 1)
        near = tl.minimum(near, 1.0 - product * scale)
        bits = near.to(tl.int32, bitcast=True)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers, negative floats order backwards
        offer = (ordered.to(tl.int64) << 32) | (count - rows).to(tl.int64)
        tl.atomic_max(keys + step, tl.max(tl.where(inside, offer, -0x7FFFFFFFFFFFFFFF), 0), sem="relaxed")
        if WAIT:
            expected = (step - first + 1) * programs
            here = tl.atomic_add(arrived, 1, sem="acq_rel") + 1
            polls = 0
            while (here < expected) & (polls < patience):
                here = tl.atomic_add(arrived, 0, sem="acquire")
                polls += 1
            if here < expected:
                tl.atomic_max(keys + step, tl.full((), 0x7FFFFFFF00000000, tl.int64), sem="relaxed")
    tl.store(nearest + rows, near, mask=inside)


# Arguments that change from call to call must not cause recompilation.
_kernel: Any = triton and triton.jit(do_not_specialize=["first", "last", "kept", "programs", "patience"])(_choose)


def shares(batch: int, count: int, processors: int) -> tuple[int, bool]:
    """The number of tokens per program, and whether all programs of the batch can run at the same time."""
    rows = LEAST_ROWS
    while rows < MOST_ROWS and batch * -(-count // rows) > processors:
        rows *= 2
    together = batch * -(-count // rows) <= processors
    return (rows if together else LEAST_ROWS), together


def farthest_points(tokens: Tensor, inverse: Tensor, start: Tensor, kept: int) -> Tensor:
    """The choices of farthest point sampling, the start first.

    tokens [B, N, D] of any float dtype on CUDA (or on a CPU with TRITON_INTERPRET=1), their inverse norms float32
    [B, N], start LongTensor[B, 1] -> LongTensor[B, max(kept, 1)]. Similarity is float32; ties go to the lowest index.
    O(N M D).
    """
    batch, count, hidden = tokens.shape
    processors = torch.cuda.get_device_properties(tokens.device).multi_processor_count if tokens.is_cuda else 1
    rows, together = shares(batch, count, processors)
    programs = -(-count // rows)
    waits = together and programs > 1
    tokens, inverse = tokens.contiguous(), inverse.contiguous()
    nearest = torch.full_like(inverse, torch.inf)
    keys = start.new_full((batch, max(kept, 1)), LOWEST)
    keys[:, 0] = count - start.squeeze(1)
    arrived = torch.zeros(batch, dtype=torch.int32, device=tokens.device)
    span = kept if together else 1
    with torch.cuda.device_of(tokens):
        for first in range(1, kept, max(span, 1)):
            _kernel[(programs, batch)](
                tokens,
                inverse,
                nearest,
                keys,
                arrived,
                first,
                min(first + span, kept),
                count,
                hidden,
                keys.shape[1],
                programs,
                PATIENCE,
                ROWS=rows,
                COLUMNS=min(TILE // rows, 1 << (hidden - 1).bit_length()),
                WAIT=waits,
                num_warps=WARPS,
                launch_cooperative_grid=waits,
            )
    return count - (keys & INDEX)


@cache
def usable(device: torch.device, reference: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> bool:
    """Whether the kernel runs on this CUDA device and makes the choices of `reference`; tried once, on random tokens.

    False without Triton. If the kernel fails or differs, a warning gives the reason.
    """
    if triton is None:
        return False
    tokens = torch.randn(1, 576, 64, generator=torch.Generator().manual_seed(0)).to(device)
    inverse = torch.linalg.vector_norm(tokens, dim=-1).reciprocal()
    start = torch.zeros(1, 1, dtype=torch.long, device=device)
    try:
        agrees = torch.equal(farthest_points(tokens, inverse, start, 16), reference(tokens, inverse, start, 16))
        reason = "its choices differ from the reference"
    except Exception as error:  # a missing C compiler or an unknown driver can raise anything
        agrees, reason = False, f"{type(error).__name__}: {error}".splitlines()[0]
    if not agrees:
        warnings.warn(f"farthest point sampling does not use its GPU kernel on {device}: {reason}", stacklevel=2)
    return agrees
