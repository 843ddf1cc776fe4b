"""PACT on a decoder whose first layer has the case's weights: what that layer then gets."""

import torch
from transformers import LlamaConfig, LlamaModel

from helpers.official import Case, assert_close, assert_same
from tokensel import reduce_tokens
from tokensel.methods import Pact, pact

WIDTH, HEADS, KEY_HEADS = 64, 4, 2


class Probe(Pact):
    """Keeps what it ranks and clusters by."""

    def select(self, context):
        self.importance = pact._importance(context)[0]
        self.selection = super().select(context)
        return self.selection


def check(case: Case) -> None:
    settings, hidden = case.settings, case["hidden"][None]
    begin, count = settings["before"], settings["n"]
    mask = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    mask[:, begin : begin + count] = True
    probe = Probe(
        cutoff=settings["cutoff"],
        keep=settings["keep"] if settings["token_pruning"] else 1.0,
        recover=settings["coef_pruned"],
        clustering=settings["use_DBDPC"],
    )
    model, seen = decoder_of(case), {}
    handle = model.layers[0].register_forward_pre_hook(
        lambda _, args, given: seen.update(given, hidden=args[0]), with_kwargs=True
    )
    with torch.no_grad(), reduce_tokens(model, probe, kept=1, agg_layer=0, image_mask=mask) as record:
        model(inputs_embeds=hidden)
    handle.remove()
    if "scores" in case:
        assert_close(probe.importance, case["scores"], "scores", 1e-5)
    centres = case["centres"] if settings["use_DBDPC"] else case["survivors"]
    assert_same(record.positions[0], centres, "centres")
    assert_close(seen["hidden"][0], case["out"], "out")
    assert_same(seen["position_ids"][0], case["position_ids"], "position_ids")
    bias = torch.zeros(len(case["out"]))
    if settings["use_DBDPC"]:
        bias = seen["attention_mask"][0, 0, -1]
    assert_close(bias, case["log_weights"], "log_weights", 2e-3)


def decoder_of(case: Case) -> LlamaModel:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        num_hidden_layers=2,
        attention_bias=True,
        rms_norm_eps=1e-6,
        rope_parameters=rope,
    )
    model = LlamaModel(config).eval()
    attention = model.layers[0].self_attn
    with torch.no_grad():
        for name in ("q", "k"):
            for part in ("weight", "bias"):
                getattr(getattr(attention, f"{name}_proj"), part).copy_(case.shared(f"{name}_{part}"))
    return model
