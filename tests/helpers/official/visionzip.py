"""VisionZip: [CLS] itself, the dominant patches ascending, then the contextual tokens."""

import torch

from helpers.official import Case, assert_close, assert_same
from helpers.official.vision_tower import chosen, select


def check(case: Case) -> None:
    total, contextual = case.settings["tokens"], case.settings["contextual"]
    indices, values = chosen(select(case, "visionzip", total, contextual=contextual / total))
    dominant, targets = case["dominant"], case["targets"]
    assert_same(indices, torch.cat([torch.tensor([-1]), dominant, targets]), "indices")
    assert_close(values, case["out"], "out")
    # Without [CLS]: one token less, the same patches.
    indices, values = chosen(select(case, "visionzip", total - 1, contextual=contextual / (total - 1), cls=False))
    assert_same(indices, torch.cat([dominant, targets]), "indices without [CLS]")
    assert_close(values, case["out"][1:], "out without [CLS]")
