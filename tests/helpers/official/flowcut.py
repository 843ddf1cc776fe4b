"""FlowCut: the tower's drops on a tower of the case's weights, the decoder's on a decoder of them."""

from types import SimpleNamespace

import torch
from torch import nn

from helpers.official import Case, assert_close, assert_same
from helpers.official.one_layer import decoder_with
from tokensel import reduce_tokens
from tokensel.functional import token_importance
from tokensel.methods import FlowCut, make_method
from tokensel.methods.flowcut import decoder_importance
from tokensel.models.tower_layer import run_layer
from tokensel.models.vision import ClsTower
from tokensel.testing import make_context

LAYERS, HEADS, WIDTH = 8, 4, 64


def check(case: Case) -> None:
    {"vision": tower_stage, "llm": decoder_stage}[case.settings["stage"]](case)


class Gelu(nn.Module):
    def forward(self, states):
        return states * torch.sigmoid(1.702 * states)


def tower_of(case: Case) -> list:
    """The case's encoder layers, as a CLIP tower has them."""

    def linear(layer: int, name: str) -> nn.Linear:
        weights = {part: case.shared(f"encoder.{layer}.{name}.{part}") for part in ("weight", "bias")}
        module = nn.Linear(*reversed(weights["weight"].shape))
        module.load_state_dict(weights)
        return module.requires_grad_(False)

    layers = []
    for index in range(LAYERS):
        names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}
        layers.append(
            SimpleNamespace(
                layer_norm1=nn.LayerNorm(WIDTH, eps=1e-5, elementwise_affine=False),
                layer_norm2=nn.LayerNorm(WIDTH, eps=1e-5, elementwise_affine=False),
                self_attn=SimpleNamespace(num_heads=HEADS, **{ours: linear(index, it) for ours, it in names.items()}),
                mlp=nn.Sequential(linear(index, "fc1"), Gelu(), linear(index, "fc2")),
            )
        )
    return layers


def tower_stage(case: Case) -> None:
    layers, batched = tower_of(case), case.settings["batch"] > 1
    kept, official = [case[name] if batched else case[name][None] for name in ("kept", "out")]
    states = case["entering"] if batched else case["entering"][None]
    entering = []
    for index, layer in enumerate(layers):
        entering.append(states)
        states, query, key, value = run_layer(layer, states)
        if index == 0:
            seen = torch.ones(states.shape[:2], dtype=torch.bool)
            score, _ = token_importance(query[:, 0], key, value[:, 0], value, seen, skipped=1)
            expected = case["cumulative0"] if batched else case["cumulative0"][None]
            assert_close(score, expected, "cumulative0", 1e-5, 1e-4)
    vision = ClsTower(layers, entering, entering[-1], nn.Identity(), feature_layer=-2)
    context = make_context(case.settings["target"], tokens=vision.features, layer=0, vision=vision)
    selection = make_method("flowcut", as_released=True).select(context)
    for row in range(len(kept)):
        assert_same(selection.indices[row], kept[row], f"kept of row {row}")
    assert_close(selection.values, official, "out")


class Probe(FlowCut):
    """Keeps the scores that it ranks by."""

    def select(self, context):
        self.scores = decoder_importance(context)[0]
        return super().select(context)


def decoder_stage(case: Case) -> None:
    settings, hidden = case.settings, case["hidden"][None]
    image_mask = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    image_mask[:, settings["before"] : settings["before"] + settings["n"]] = True
    weights = case.weights("llm")
    model = decoder_with(1, {f"{part}_proj": weights[f"{part}_weight"] for part in "qkv"}, normed=True)
    probe = Probe()
    options = {"kept": settings["tokens"], "agg_layer": 2, "image_mask": image_mask}
    with torch.no_grad(), reduce_tokens(model, probe, **options) as record:
        model(inputs_embeds=hidden)
    assert_same(record.positions[0], case["kept"], "kept")
    assert_close(probe.scores, case["score"], "score", 1e-5, 1e-4)
