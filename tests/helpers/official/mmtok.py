"""MMTok's official choice, its order, and how much it covers."""

import math

from helpers.official import Case, assert_close, assert_same
from tokensel import make_method
from tokensel.functional import padding_patches
from tokensel.testing import make_context


def check(case: Case) -> None:
    settings = case.settings
    method = make_method(
        "mmtok",
        alpha=settings["alpha"],
        text_temperature=settings["softmax_tv_temperature"],
        vision_temperature=settings["softmax_vv_temperature"],
        as_released=True,
    )
    side = math.isqrt(settings["n"])
    context = make_context(
        settings["target_vision_tokens"],
        tokens=case["projected"][None],
        layer=0,
        vision_features=case["clip"][None],
        questions=["?"],
        words=case["text"][None],
        grid=(side, side),
        picture_sizes=[size_of(case)],
    )
    ours = method.select(context).indices[0]
    coverage = method.affinity(context)[0, ours].amax(0).sum()
    assert_close(coverage, case["coverage"].view(()), "coverage")
    if settings.get("stable_set", case.stable):
        assert_same(ours, case["kept"], "kept")
    if case.stable:
        assert_same(method.order(context)[0], case["order"], "order")


def size_of(case: Case) -> tuple[int, int] | None:
    """A picture whose padding is the case's."""
    if "padding" not in case:
        return None
    patches, excluded = math.isqrt(case.settings["n"]), sorted(case["padding"].tolist())
    side = 14 * patches
    for size in [(side, short) for short in range(1, side)] + [(short, side) for short in range(1, side)]:
        if padding_patches(*size, patches=patches) == excluded:
            return size
    raise AssertionError(f"padding={excluded}: no picture has these bars")
