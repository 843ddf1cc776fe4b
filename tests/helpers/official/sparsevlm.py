"""SparseVLM: raters, their score, what is kept, the recycled pool's clusters and their means."""

import torch

from helpers.official import Case, assert_close, assert_same
from tokensel import Context, make_method
from tokensel.methods.sparsevlm import rater_attention, text_raters
from tokensel.testing import make_context


def check(case: Case) -> None:
    context, method = text_context(case, case["tokens"]), make_method("sparsevlm")
    check_raters_and_score(case, context, corrected=False)
    selection = method.select(context)
    budget, total = case.settings["budget"], case.settings["tokens"]
    assert method.remaining(budget, case.settings["n"]) == total
    assert_same(selection.indices[0, :budget], case["kept"], "kept")
    assert set(selection.indices[0, budget:].tolist()) <= set(case["pool"].tolist()), "centres outside the pool"
    assert_close(selection.values[0, :budget], case["out"][:budget], "kept tokens' states")
    if case.stable:
        check_centers(case, selection.indices[0, budget:])
        assert_close(selection.values[0], case["out"], "out")


def check_centers(case: Case, ours: torch.Tensor) -> None:
    """The official centres in their order. The release adds noise of up to 1e-6 to densities, and two tokens that are
    each other's nearest have the same density: where it took the other of two such tokens, either one is right."""
    pool, official = case["pool"], case["centers"]
    tokens = case["tokens"][pool].double()
    distance = torch.cdist(tokens, tokens) / tokens.shape[1] ** 0.5
    nearest = distance.topk(len(official), largest=False).values
    density = dict(zip(pool.tolist(), nearest.square().mean(1).neg().exp().tolist(), strict=True))
    tied = [abs(density[a] - density[b]) < 1e-6 for a, b in zip(ours.tolist(), official.tolist(), strict=True)]
    assert_same(torch.where(torch.tensor(tied), official, ours), official, "centers")


def check_raters_and_score(case: Case, context: Context, corrected: bool) -> None:
    raters = text_raters(*context.inputs, context.text_mask)[0].nonzero().flatten()
    assert_same(raters, case["raters"], "raters")
    assert_close(rater_attention(context, corrected)[0], case["score"], "score", atol=0)


def text_context(case: Case, tokens: torch.Tensor, **given) -> Context:
    """A Context whose text, inputs and attention are the case's."""
    text = case["text_inputs"].unsqueeze(0)
    return make_context(
        case.settings["budget"],
        tokens=tokens.unsqueeze(0),
        text=text,
        inputs=(case["visual_inputs"].unsqueeze(0), text),
        attention={"text": case["text_to_visual"].unsqueeze(0)},
        **given,
    )
