"""The order of tokens of a picture that was cut into tiles.

Shapes: B rows of a batch, T tiles in reading order, M tokens kept of each.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError


@torch.no_grad()
def tile_order(chosen: Tensor, tiles_across: int, grid: tuple[int, int]) -> Tensor:
    """The order of the kept tokens in reading order of the whole picture: LongTensor[B, T * M] into chosen.flatten(1).

    chosen: LongTensor[B, T, M], the kept tokens of each tile, as indices into its grid of (rows, columns); T is a
    multiple of tiles_across. Lines of tiles that stand side by side interleave. The whole picture's own tile, which
    LLaVA-NeXT places first, is not among them.

    tokens.flatten(1, 2) at these indices are what SCOPE and MMTok give to the language model. PruneSID's release orders
    `chosen.sort(dim=2).values` and applies that order to tokens that are not sorted, so tokens and places do not match.

    Raises TokenselError for tiles that do not fill lines of tiles_across. Source: LLaVA-NeXT's layout; SCOPE
    (arXiv 2510.24214); MMTok (arXiv 2508.18264).
    """
    tiles, (rows, columns) = chosen.shape[1], grid
    if tiles_across < 1 or tiles % tiles_across:
        raise TokenselError(f"tiles_across={tiles_across}: must divide the number of tiles, {tiles}")
    tile = torch.arange(tiles, device=chosen.device).unsqueeze(1)
    row = rows * (tile // tiles_across) + chosen // columns
    column = columns * (tile % tiles_across) + chosen % columns
    return (row * (columns * tiles_across) + column).flatten(1).argsort(dim=1, stable=True)
