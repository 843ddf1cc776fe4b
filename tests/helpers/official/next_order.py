"""The official order of the tokens of LLaVA-NeXT's crops, each of 24 x 24 patches."""

import torch

from helpers.official import Case, assert_same
from tokensel.functional import tile_order


def check(case: Case) -> None:
    chosen = case["chosen"][None]
    crops, kept = chosen.shape[1:]
    tokens = torch.stack([torch.arange(crops).repeat_interleave(kept), chosen.flatten()], 1)
    placed, last = chosen, tokens[:0]
    if case.settings["method"] == "prunesid":  # its places are sorted and its tokens are not; each crop's [CLS] follows
        placed, last = chosen.sort(dim=2).values, torch.stack([torch.arange(crops), torch.full((crops,), -1)], 1)
    order = tile_order(placed, case.settings["crops_wide"], (24, 24))[0]
    assert_same(torch.cat([tokens[order], last]), case["sequence"], "sequence")
