"""VisPruner's official choice: a part by [CLS] attention, the rest by removing duplicates."""

from helpers.official import Case, assert_same
from tokensel import make_method
from tokensel.testing import make_context


def check(case: Case) -> None:
    settings = case.settings
    context = make_context(
        settings["visual_token_num"],
        tokens=case["features"][None],
        layer=0,
        cls_attention=case["cls_attention"][None],
    )
    selection = make_method("vispruner", important_ratio=settings.get("important_ratio", 0.5)).select(context)
    assert_same(selection.indices[0], case["kept"], "kept")
    assert selection.values is None, "survivors carry their own features"
