"""PruMerge: the outliers of [CLS]'s attention or a given number, by falling attention, then the sum of the others."""

import torch

from helpers.official import Case, assert_close, assert_same
from helpers.official.vision_tower import chosen, select, tower_context


def check(case: Case) -> None:
    attention = tower_context(case, 1).vision.cls_attention(-1, one_head=True)[0, 0]
    assert_close(attention, case["cls_attention"], "cls_attention")
    kept, count = case.settings["kept"], case.settings["n"]
    options = {"neighbours": case.settings["neighbours"]}
    check_choice(case, *chosen(select(case, "prumerge", kept, **options)))
    if case.settings["if_adaptive"]:
        check_choice(case, *chosen(select(case, "prumerge", count - 1, adaptive=True, **options)))


def check_choice(case: Case, indices: torch.Tensor, values: torch.Tensor) -> None:
    """The official indices, and the official values with the sum of the others at the end."""
    assert_same(indices, torch.cat([case["indices"], torch.tensor([-1])]), "indices")
    assert_close(values, case["out"], "out", atol=1e-4 if case.stable else 1e-3)
