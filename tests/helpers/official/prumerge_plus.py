"""PruMerge+: by falling attention, then at the stride; given a ratio, half and half with repetitions."""

from helpers.official import Case, assert_same_set
from helpers.official.prumerge import check_choice
from helpers.official.vision_tower import chosen, select


def check(case: Case) -> None:
    kept, count = case.settings["kept"], case.settings["n"]
    options = {"neighbours": case.settings["neighbours"]}
    if case.settings["if_adaptive"]:
        check_choice(case, *chosen(select(case, "prumerge_plus", count - 1, adaptive=True, **options)))
        # The same total as a number to keep: the same patches.
        indices, _ = chosen(select(case, "prumerge_plus", kept, **options))
        assert_same_set(indices[:-1], case["indices"], "indices of kept")
    else:
        options["ratio"] = case.settings["reduction_ratio"]
        check_choice(case, *chosen(select(case, "prumerge_plus", kept, as_released=True, **options)))
