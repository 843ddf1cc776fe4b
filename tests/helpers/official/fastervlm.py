"""FasterVLM's official choice by the tower's [CLS] attention."""

from helpers.official import Case, assert_same
from tokensel import make_method
from tokensel.testing import make_context


def check(case: Case) -> None:
    kept, tokens, attention = case.settings["visual_token_num"], case["features"][None], case["cls_attention"][None]
    selection = make_method("fastervlm").select(make_context(kept, tokens=tokens, layer=0, cls_attention=attention))
    assert_same(selection.indices[0], case["kept"], "kept")
    assert selection.values is None, "survivors carry their own features"
