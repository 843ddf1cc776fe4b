"""PruneSID's official choice, with the random start that its run drew and with exact components."""

import math

import torch

from helpers.official import Case, assert_close, assert_same, assert_same_set
from tokensel import make_method
from tokensel.functional import group_quotas, keep_in_groups, principal_loadings, random_start, suppress_similar
from tokensel.testing import make_context, make_vision


def check(case: Case) -> None:
    settings, hidden, groups = case.settings, case["hidden"], case.settings["groups"]
    kept, features, attention = settings["need_token_num"], hidden[None, 1:], case["cls_attention"][None]
    check_steps(case, features, attention.sum(1), kept)

    def choice(**options):
        vision = make_vision(features, cls_attention=attention, cls=hidden[None, 0])
        method = make_method("prunesid", seed=settings["seed"], **options)
        selection = method.select(make_context(kept, tokens=features, layer=0, vision=vision))
        indices = selection.indices[0]
        assert_same(indices[:1], torch.tensor([-1]), "[CLS] first")
        assert_close(selection.values[0], torch.cat([hidden[:1], features[0, indices[1:]]]), "values")
        return indices[1:]

    start = random_start(features, groups, settings["seed"])
    if torch.equal(start, case["randn"]) and settings["stable_ties_by_index"]:
        assert_same(choice(as_released=True), case["kept_ties_by_index"], "kept")
        assert_same(choice(), case["kept_ties_by_index"].sort().values, "kept, in the order of the picture")
    if settings["exact_svd_stable"]:
        assert_same(choice(exact=True, as_released=True), case["kept_exact_svd"], "kept_exact_svd")


def check_steps(case: Case, features: torch.Tensor, scores: torch.Tensor, kept: int) -> None:
    """Each step on the official outcome of the step before."""
    group, groups = case["group"][None], case.settings["groups"]
    loadings = principal_loadings(features, groups, case["randn"])
    assert_close(loadings[0], case["loadings"], "loadings", 1e-3)
    unit = torch.nn.functional.normalize(features, dim=-1)
    suppressed = suppress_similar(unit @ unit.mT, scores, group, case["threshold"])
    empty = torch.zeros(1, groups, dtype=torch.long)
    distinct = empty.scatter_add(1, group, (~suppressed).long())
    members = empty.scatter_add(1, group, torch.ones_like(group))
    assert_same(distinct[0], case["nms_counts"], "nms_counts")
    assert_same(members[0], case["group_counts"], "group_counts")
    if case.settings["group_fill_tie_decides"]:
        return
    quotas = group_quotas(members, distinct, kept - 1, 5 * math.ceil(kept / 64))
    assert_same(quotas[0], case["quota"], "quota")
    chosen = keep_in_groups(features, scores, group, groups, kept - 1)[0]
    if case.stable:
        assert_same(chosen, case["kept"], "kept, given the groups")
    else:
        assert_same_set(chosen, case["kept"], "kept, given the groups")
