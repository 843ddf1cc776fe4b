"""Windows of a grid, and the best tokens with a limit for each window."""

import math

import torch
from torch import Tensor

from tokensel.functional.indexing import rank


def grid_windows(rows: int, cols: int, side: int, device: torch.device | None = None) -> tuple[Tensor, int]:
    """The window of each token of a grid, and the number of windows.

    Windows are side x side, numbered row by row; rows and columns left over join the last windows, and a grid smaller
    than a window is one. Returns LongTensor[rows * cols] in reading order.

    Source: VScan (arXiv 2505.22654), its release for Qwen2.5-VL.
    """
    down, across = max(1, rows // side), max(1, cols // side)
    row = (torch.arange(rows, device=device) // side).clamp_max(down - 1)
    col = (torch.arange(cols, device=device) // side).clamp_max(across - 1)
    return (row.unsqueeze(1) * across + col).flatten(), down * across


def best_in_windows(scores: Tensor, window: Tensor, kept: int, limit: int) -> Tensor:
    """The best tokens with at most `limit` in each window, by falling score: LongTensor[B, min(kept, N)].

    scores [B, N], window LongTensor[N] from 0. Goes through the tokens by falling score and takes one if its window has
    room. If the windows are full before `kept` are found, the best of the others follow. Ties go to the lowest index.
    O(N windows).
    """
    order = rank(scores)
    member = torch.nn.functional.one_hot(window[order])  # [B, N, windows]
    earlier = (member.cumsum(1) * member).sum(2) - 1
    first = (earlier >= limit).to(torch.uint8).sort(dim=1, stable=True).indices[:, :kept]
    return order.gather(1, first)


def local_global_scan(
    near: Tensor, far: Tensor, window: Tensor, windows: int, local: int, everywhere: int
) -> tuple[Tensor, Tensor]:
    """VScan's choice: `local` tokens spread over the windows, and the best `everywhere` of all others.

    near, far [B, N]: the scores of the local and of the global scan. window LongTensor[N] and windows: `grid_windows`.
    Each window gives at most local / windows tokens, rounded up. Returns what is chosen, LongTensor[B, local +
    everywhere], and what is not, LongTensor[B, rest], both ascending. O(N windows).

    Source: VScan (arXiv 2505.22654).
    """
    positions = best_in_windows(near, window, local, math.ceil(local / windows))
    others = rank(far.float().scatter(1, positions, -torch.inf))[:, :everywhere]
    dropped = torch.ones_like(near, dtype=torch.uint8).scatter(1, torch.cat([positions, others], 1), 0)
    order = dropped.sort(dim=1, stable=True).indices
    return order[:, : local + everywhere], order[:, local + everywhere :]
