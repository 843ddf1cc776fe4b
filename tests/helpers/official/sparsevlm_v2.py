"""SparseVLM 2: attention divided by rotary weights, the 14 heads with the largest sums, nothing recycled."""

import torch

from helpers.official import Case, assert_close, assert_same
from helpers.official.sparsevlm import check_raters_and_score, text_context
from tokensel import make_method
from tokensel.methods.sparsevlm import rotary_products


def check(case: Case) -> None:
    settings, method = case.settings, make_method("sparsevlm", version=2)
    picture = torch.arange(settings["n"]) + settings["before"]
    text = torch.arange(settings["text"]) + settings["before"] + settings["n"]
    rotary = {"visual": angles(picture, settings), "text": angles(text, settings)}
    assert_close(rotary_products(rotary["text"], rotary["visual"])[0], case["rope_weights"], "rope_weights")
    context = text_context(case, case["visual_inputs"], rotary=rotary)
    check_raters_and_score(case, context, corrected=True)
    assert method.remaining(settings["budget"], settings["n"]) == settings["tokens"]
    selection = method.select(context)
    assert_same(selection.indices[0], case["kept"], "kept")
    assert selection.values is None
    assert method.default_position == "source"
    order = torch.cat([torch.arange(settings["before"]), picture[case["kept"]], text])
    assert_same(order, case["position_ids"], "position_ids")


def angles(positions: torch.Tensor, settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The cos and sin [1, n, d] of Llama's rotary embedding."""
    width = settings["head_dim"]
    frequencies = 1 / settings["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.cat([positions.unsqueeze(1) * frequencies] * 2, 1).unsqueeze(0)
    return angle.cos(), angle.sin()
