"""FEATHER: each stage on what enters the layer before it, with that layer's weights."""

import torch

from helpers.official import Case, assert_close, assert_same
from helpers.official.one_layer import decoder_with
from tokensel.engine.attention import layer_projection
from tokensel.methods import Feather
from tokensel.methods import feather as ours
from tokensel.testing import make_context


def check(case: Case) -> None:
    settings = case.settings
    method = Feather(ratio=settings["ratio"], stride=settings["stride"], rotary=settings["rule"] == "fastv")
    left = torch.arange(settings["n"])
    for stage, layer in enumerate(settings["criterion_layers"]):
        context = context_of(case, stage, layer, len(left), method.rotary)
        scores = ours._attention(context, method.rotary)[0]
        assert_close(scores, case[f"score{stage + 1}"], "score", 1e-6)
        selection = method.select(context)
        chosen = selection.indices[0]
        if selection.counts is None:
            assert method.remaining(context.kept, len(left), layer + 1, stage) == len(chosen), "remaining"
        else:
            chosen = chosen[: int(selection.counts[0])]
        assert_same(left[chosen], case[f"kept{stage + 1}"], "kept")
        left = left[chosen]
        assert len(left) == settings["tokens"][stage], "tokens"
        ids = torch.cat([torch.arange(before := settings["before"]), left + before])
        text = torch.arange(settings["after"]) + before + settings["n"]
        assert_same(torch.cat([ids, text]), case[f"position_ids{stage + 1}"], "position_ids")
    assert method.default_position == "source"


def context_of(case: Case, stage: int, layer: int, count: int, rotary: bool):
    """What the stage sees: the last row's query and the visual tokens' keys, in the layer before."""
    hidden, begin = case[f"criterion_input{stage + 1}"][None], case.settings["before"]
    weights = case.weights(f"layer{layer}")
    model = decoder_with(layer, {f"{name}_proj": weights[f"{name}_weight"] for name in "qk"})
    visual = slice(begin, begin + count)
    angles = model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])

    def project(part, where):
        rotated = tuple(each[:, where] for each in angles) if rotary else None
        return layer_projection(model.layers[layer], part, hidden[:, where], rotated)

    with torch.no_grad():
        projections = {("query", "last"): project("query", slice(-1, None)), ("key", "visual"): project("key", visual)}
    side = int(count**0.5)
    return make_context(
        1,
        tokens=hidden[:, visual],
        layer=layer + 1,
        stage=stage,
        stages=len(case.settings["layers"]),
        projections=projections,
        grid=(side, side),
    )
