"""Deliberately wrong variants of methods (a sign, a norm, a mean over heads, a token too few) fail their checks.

A variant replaces one function that a method uses by one with a mistake. The check of the method's reference cases must
then fail on at least one of them, which shows that the cases hold that part of the rule.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.official import SAMPLE, RoundingDecides, cases, check_of, folder

from tokensel import Context
from tokensel.functional import clustering, merging, relevance, sampling
from tokensel.methods import cdpruner, dart, divprune, mmtok, prumerge, prumerge_plus, sparsevlm, visionzip
from tokensel.methods.base import geometric
from tokensel.methods.dart import Dart
from tokensel.methods.mmtok import MMTok
from tokensel.methods.prumerge import PruMerge
from tokensel.methods.prumerge_plus import PruMergePlus
from tokensel.methods.pyramiddrop import PyramidDrop
from tokensel.methods.visionzip import VisionZip
from tokensel.models.vision import ClsTower

# The owner of the function, its name, and what makes the wrong one of the right one.
Variant = tuple[Any, str, Callable[[Any], Any]]


def with_selection(change):
    """A `select` whose selection is changed afterwards."""
    return lambda right: lambda self, context: change(right(self, context))


def without_first(selection):
    return replace(selection, indices=selection.indices[:, 1:], values=selection.values[:, 1:])


def without_last(selection):
    return replace(selection, indices=selection.indices[:, :-1], values=selection.values[:, :-1])


def in_order_of_the_picture(right):
    def choose(self, attention, kept):
        positions, counts = right(self, attention, kept)
        number = int(counts)
        return torch.cat([positions[:, :number].sort(1).values, positions[:, number:]], 1), counts

    return choose


def with_keys(change):
    """[CLS]'s attention as it is, and other keys [B, N, heads, d]."""

    def wrong(right):
        def both(self, layer=-2, one_head=False):
            attention, keys = right(self, layer, one_head)
            return attention, change(keys)

        return both

    return wrong


def largest_head(attention):
    return attention.amax(1, keepdim=True)


VISION: dict[str, Variant] = {
    "mean over heads": (
        ClsTower,
        "cls_attention_and_keys",
        lambda right: lambda self, layer, one_head: right(self, layer),
    ),
    "keys without their norm": (
        merging,
        "query_cosines",
        lambda right: lambda tokens, inverse, queries: right(tokens, torch.ones_like(inverse), queries),
    ),
    "the least similar neighbours": (merging, "query_cosines", lambda right: lambda *rest: -right(*rest)),
    "the keys of one head": (
        ClsTower,
        "cls_attention_and_keys",
        with_keys(lambda keys: keys[:, :, :1]),
    ),
    "one neighbour less": (
        prumerge,
        "merge_outliers",
        lambda right: lambda a, b, c, d, neighbours, counts: right(a, b, c, d, neighbours - 1, counts),
    ),
    "neighbours without weights": (
        prumerge,
        "merge_outliers",
        lambda right: lambda a, b, weights, *rest: right(a, b, torch.ones_like(weights), *rest),
    ),
    "the order of the picture": (PruMerge, "choose", in_order_of_the_picture),
    "no token for the others": (PruMerge, "select", with_selection(without_last)),
}


def with_field(name, value):
    """A `__post_init__` that sets a field, whatever it was made with."""
    return lambda right: lambda self: setattr(self, name, value)


DART: dict[str, Variant] = {
    "the L2 norm of keys": (
        dart,
        "_key_norms",
        lambda right: (
            lambda context, tokens: (
                context.project("key", tokens, "previous", rotary=True).float().flatten(2).norm(dim=2)
            )
        ),
    ),
    "keys before rotary embedding": (
        Context,
        "project",
        lambda right: lambda self, part, tokens, layer, rotary: right(self, part, tokens, layer, False),
    ),
    "keys of the next layer": (
        Context,
        "project",
        lambda right: lambda self, part, tokens, layer, rotary: right(self, part, tokens, "next", rotary),
    ),
    "keys summed over heads first": (
        dart,
        "_key_norms",
        lambda right: lambda context, tokens: context.project("key", tokens, rotary=True).float().mean(2).abs().sum(2),
    ),
    "states before the final norm": (Context, "final_norm", lambda right: lambda self, states: states),
    "the most similar tokens": (
        dart,
        "least_similar",
        lambda right: lambda states, pivots, kept, queries: right(states, pivots, kept, -queries),
    ),
    "pivots visited by falling norm": (
        dart,
        "set_order",
        lambda right: lambda places: torch.arange(places.shape[1]).expand_as(places),
    ),
    "no text pivots": (Dart, "__post_init__", with_field("text_pivots", 0)),
    "exactly as many as asked": (Dart, "__post_init__", with_field("exact", True)),
}
CDPRUNER: dict[str, Variant] = {
    "relevance with a plus sign": (
        cdpruner,
        "text_relevance",
        lambda right: lambda tokens, texts, real, sign=1: right(tokens, texts, real, -sign),
    ),
    "relevance without normalised texts": (
        relevance,
        "inverse_norms",
        lambda right: lambda states: torch.ones_like(right(states)),
    ),
    "no relevance": (
        cdpruner,
        "dpp_greedy",
        lambda right: lambda tokens, quality, kept: right(tokens, torch.ones_like(quality), kept),
    ),
    "relevance on one side": (
        cdpruner,
        "dpp_greedy",
        lambda right: lambda tokens, quality, kept: right(tokens, quality.sqrt(), kept),
    ),
    "residuals below 1e-2 count as 0": (clustering, "EXHAUSTED", lambda right: 1e-2),
}
DIVPRUNE: dict[str, Variant] = {
    "from the medoid": (
        divprune,
        "farthest_point_sampling",
        lambda right: lambda tokens, kept, start: right(tokens, kept, "medoid"),
    ),
    "one choice less": (
        divprune,
        "farthest_point_sampling",
        lambda right: lambda tokens, kept, start: right(tokens, kept - 1, start),
    ),
    "distances without norms": (
        sampling,
        "inverse_norms",
        lambda right: lambda tokens: torch.full_like(right(tokens), 0.01),
    ),
}
PYRAMIDDROP: dict[str, Variant] = {
    "the largest head instead of the mean": (
        Context,
        "attention",
        lambda right: lambda *rest, **given: largest_head(right(*rest, **given)),
    ),
    "all queries of the text": (
        Context,
        "attention",
        lambda right: lambda self, queries, layer: right(self, "text", layer=layer),
    ),
    "equal factors": (PyramidDrop, "schedule", lambda right: lambda self, *counts: geometric(*counts)),
    "positions as they were": (PyramidDrop, "default_position", lambda right: "source"),
}
MMTOK: dict[str, Variant] = {
    "softmax over the words": (
        MMTok,
        "affinity",
        lambda right: lambda self, context: right(self, context) / right(self, context).sum(2, keepdim=True),
    ),
    "words before their norm": (
        relevance,
        "_unit",
        lambda right: lambda states: states,
    ),
    "the picture's weight as that of the words": (MMTok, "__post_init__", with_field("alpha", 1.0)),
    "another temperature": (MMTok, "__post_init__", with_field("text_temperature", 0.05)),
    "no repetitions where the release has them": (MMTok, "__post_init__", with_field("as_released", False)),
    "bars like the picture": (mmtok, "padding_patches", lambda right: lambda *size, patches: []),
}
VARIANTS: dict[str, dict[str, Variant]] = {
    "dart": DART,
    "cdpruner": CDPRUNER,
    "divprune": DIVPRUNE,
    "pyramiddrop": PYRAMIDDROP,
    "mmtok": MMTOK,
    "prumerge": VISION
    | {
        "the smallest attention": (prumerge, "rank", lambda right: lambda scores, tie: right(-scores, tie)),
        "one outlier more": (prumerge, "outlier_counts", lambda right: lambda scores: right(scores) + 1),
    },
    "prumerge_plus": VISION
    | {
        "the order of the picture": (PruMergePlus, "choose", in_order_of_the_picture),
        "half at the stride": (
            prumerge_plus,
            "outliers_at_stride",
            lambda right: lambda scores, kept, times, outliers: right(scores, kept, 1, outliers),
        ),
        "the smallest attention": (
            prumerge_plus,
            "outliers_at_stride",
            lambda right: lambda scores, *rest: right(-scores, *rest),
        ),
        "one outlier more": (prumerge_plus, "outlier_counts", lambda right: lambda scores: right(scores) + 1),
        "no repetitions where the release has them": (
            PruMergePlus,
            "__post_init__",
            lambda right: lambda self: setattr(self, "as_released", False),
        ),
    },
    "visionzip": {
        "no [CLS]": (VisionZip, "select", with_selection(without_first)),
        "one contextual token less": (VisionZip, "select", with_selection(without_last)),
        "the largest head instead of all": (
            ClsTower,
            "cls_attention_and_keys",
            lambda right: lambda self: (largest_head(right(self)[0]), right(self)[1]),
        ),
        "the smallest attention": (visionzip, "rank", lambda right: lambda scores: right(-scores)),
        "the keys of one head": (ClsTower, "cls_attention_and_keys", with_keys(lambda keys: keys[:, :, :1])),
        "keys without their norm": (merging, "inverse_norms", lambda right: lambda keys: torch.ones_like(right(keys))),
        "sums instead of means": (
            merging,
            "_weighted_means",
            lambda right: lambda *rest: (torch.mul(*right(*rest)), right(*rest)[1]),
        ),
        "contextual features with the wrong sign": (
            visionzip,
            "contextual_tokens",
            lambda right: lambda tokens, *rest: right(-tokens, *rest),
        ),
    },
    "sparsevlm": {
        "every word rates": (
            sparsevlm,
            "text_raters",
            lambda right: lambda visual, text, mask: mask / mask.sum(1, keepdim=True),
        ),
        "raters below the mean": (
            sparsevlm,
            "text_raters",
            lambda right: lambda visual, text, mask: right(-visual, text, mask),
        ),
        "the largest head instead of the mean": (
            Context,
            "attention",
            lambda right: lambda *rest, **given: largest_head(right(*rest, **given)),
        ),
        "the smallest attention": (sparsevlm, "rank", lambda right: lambda scores: right(-scores)),
        "one recycled token less": (
            sparsevlm,
            "recycling",
            lambda right: lambda *rest: (right(*rest)[0] - 1, right(*rest)[1]),
        ),
        "one cluster less": (
            sparsevlm,
            "recycling",
            lambda right: lambda *rest: (right(*rest)[0], right(*rest)[1] - 1),
        ),
        "density without the token itself": (
            sparsevlm,
            "dpc_knn",
            lambda right: lambda *rest, itself, **given: right(*rest, **given),
        ),
        "density over five neighbours": (
            sparsevlm,
            "dpc_knn",
            lambda right: lambda *rest, **given: right(*rest, **given | {"neighbours": 5}),
        ),
        "clusters by cosine": (
            sparsevlm,
            "dpc_knn",
            lambda right: lambda *rest, **given: right(*rest, **given | {"metric": "cosine"}),
        ),
        "sums instead of means": (
            sparsevlm,
            "cluster_means",
            lambda right: lambda *rest: (right(*rest)[0] * right(*rest)[1].unsqueeze(2), None),
        ),
    },
    "sparsevlm_v2": {
        "no rotary weights": (sparsevlm, "rotary_products", lambda right: lambda *rest: torch.ones_like(right(*rest))),
        "rotation the other way": (
            sparsevlm,
            "rotary_products",
            lambda right: lambda text, visual: right((text[0], -text[1]), visual),
        ),
        "all heads": (sparsevlm, "HEADS", lambda right: 16),
        "the heads with the smallest sums": (
            sparsevlm,
            "take",
            lambda right: lambda attention, heads: right(attention, (-attention.sum(2)).topk(heads.shape[1]).indices),
        ),
        "every word rates": (
            sparsevlm,
            "text_raters",
            lambda right: lambda visual, text, mask: mask / mask.sum(1, keepdim=True),
        ),
    },
}


@pytest.mark.parametrize(("method", "mistake"), [(method, name) for method in VARIANTS for name in VARIANTS[method]])
def test_a_wrong_variant_fails_its_check(monkeypatch, method, mistake):
    check = check_of(method)  # imported before anything is replaced, so that no wrong function stays in its module
    owner, name, make_wrong = VARIANTS[method][mistake]
    monkeypatch.setattr(owner, name, make_wrong(getattr(owner, name)))
    found = any(fails(check, case) for case in cases(method) if case.stable)
    if not found and folder() == SAMPLE:
        pytest.skip("the committed sample has no case of this part of the rule")
    assert found


def fails(check, case):
    try:
        check(case)
    except AssertionError as error:
        return not isinstance(error, RoundingDecides)
    return False
