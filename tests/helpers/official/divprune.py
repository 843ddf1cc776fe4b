"""DivPrune's official choice among projected features."""

from helpers.official import Case, assert_same
from tokensel import make_method
from tokensel.functional import farthest_point_sampling
from tokensel.testing import make_context


def check(case: Case) -> None:
    tokens, kept = case["tokens"].unsqueeze(0), case.settings["kept"]
    selection = make_method("divprune").select(make_context(kept, tokens=tokens, layer=0))
    if case.stable:
        assert_same(selection.indices[0], case["kept"], "kept")
        order = farthest_point_sampling(tokens, kept, "peripheral")
        assert_same(order[0], case["order"], "order")
        return
    # More tokens are asked for than there are distinct ones: all of these are among the chosen.
    ours = {tuple(row) for row in tokens[0, selection.indices[0]].tolist()}
    assert {tuple(row) for row in case["tokens"].tolist()} == ours, "distinct rows"
