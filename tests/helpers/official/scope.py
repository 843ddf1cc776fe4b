"""SCOPE's official choice and its order."""

from helpers.official import Case, assert_same
from tokensel import make_method
from tokensel.testing import make_context


def check(case: Case) -> None:
    settings = case.settings
    # The release divides the number among the pictures that the tower sees at once.
    kept = settings["num_token"] // settings["batch"]
    context = make_context(kept, tokens=case["features"][None], layer=0, cls_attention=case["cls_attention"][None])
    method = make_method("scope", alpha=settings["alpha"], combined=settings["combined"])
    selection = method.select(context)
    assert_same(selection.indices[0], case["kept"], "kept")
    assert selection.values is None, "survivors carry their own features"
    if case.stable:
        assert_same(method.order(context)[0], case["order"], "order")
