"""VScan: the vision stage on two attention maps, the stage inside the decoder on a decoder of the case's weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.official import Case, assert_close, assert_same
from helpers.official.one_layer import decoder_with
from tokensel import reduce_tokens
from tokensel.methods import VScan, make_method
from tokensel.models.vision import ClsTower
from tokensel.testing import make_context


@dataclass(frozen=True)
class Maps(ClsTower):
    """The tower of a case: 24 layers, of which two have an attention map."""

    maps: dict[int, Tensor]

    def cls_attention(self, layer=-2, one_head=False):
        return self.maps[layer]


class Probe(VScan):
    """Keeps the scores that it ranks by."""

    def select(self, context):
        self.scores = context.attention("last", layer="next").mean(1)[0]
        return super().select(context)


def check(case: Case) -> None:
    {"vision": vision_stage, "qwen_vision": qwen_stage, "llm": decoder_stage}[case.settings["stage"]](case)


def vision_stage(case: Case) -> None:
    features, settings = case["features"][None], case.settings
    maps = {5: case["attention_shallow"][None], -2: case["attention_deep"][None]}
    side = int(settings["n"] ** 0.5)
    choose(case, features, maps, settings["visual_token_num"], (side, side))


def qwen_stage(case: Case) -> None:
    features, settings = case["features"][None], case.settings
    maps = {5: case["weights_local"][None, None], -2: case["weights_global"][None, None]}
    kept = int(settings["image_token_ratio"] * features.shape[1])
    choose(case, features, maps, kept, (settings["height"], settings["width"]), windows="limit", window=4)


def choose(case: Case, features: Tensor, maps: dict, kept: int, grid: tuple[int, int], **options) -> None:
    vision = Maps([None] * 24, (), features, torch.nn.Identity(), maps)
    method = make_method("vscan", **options)
    context = make_context(kept, tokens=features, layer=0, vision=vision, grid=grid)
    selection = method.select(context)
    assert_same(selection.indices[0], case["kept"], "kept")
    assert method.remaining(kept, features.shape[1]) == len(case["kept"]), "remaining"
    if case.stable:
        assert_close(selection.values[0], case["out"], "out")


def decoder_stage(case: Case) -> None:
    """The official code takes the row of a fixed place as the last one; what stands behind it is left out here."""
    settings, hidden = case.settings, case["hidden"]
    begin, end = settings["before"], settings["before"] + settings["n"]
    prompt = hidden[None, : settings["query_row"] + 1]
    image_mask = torch.zeros(prompt.shape[:2], dtype=torch.bool)
    image_mask[:, begin:end] = True
    model = decoder_with(1, {"q_proj": case.shared("q_weight"), "k_proj": case.shared("k_weight")})
    probe = Probe()
    options = {"kept": settings["tokens"], "agg_layer": 1, "image_mask": image_mask}
    with torch.no_grad(), reduce_tokens(model, probe, **options) as record:
        model(inputs_embeds=prompt)
    assert_same(record.positions[0], case["kept"], "kept")
    assert_close(probe.scores, case["score"], "score", 1e-6, 1e-4)
    remaining = len(hidden) - settings["n"] + settings["tokens"]
    assert_same(torch.arange(remaining), case["position_ids"], "position_ids")
    assert probe.default_position == "renumber"
