"""PyramidDrop's official decoder: what remains after each stage, and what the decoder makes of it."""

import torch

from helpers.official import Case, assert_close, assert_same
from helpers.official.decoder import decoder_of, image_mask_of
from tokensel import make_method, reduce_tokens


def check(case: Case) -> None:
    settings = case.settings
    model, embeds, mask = decoder_of(case), case["embeds"], image_mask_of(case)
    layers, kept = settings["layers"], settings["kept"]
    # A prefill and decoding steps with the cache.
    decoded = []
    with (
        torch.no_grad(),
        reduce_tokens(model, "pyramiddrop", kept=kept[-1], agg_layer=layers, image_mask=mask) as record,
    ):
        output = model(inputs_embeds=embeds, use_cache=True)
        for token in case["next"].split(1, dim=1):
            step = model(inputs_embeds=token, past_key_values=output.past_key_values, use_cache=True)
            decoded.append(step.last_hidden_state)
    assert list(make_method("pyramiddrop").schedule(kept[-1], settings["N"], len(layers))) == kept, "schedule"
    assert_same(record.positions[0], case[f"kept{len(layers) - 1}"], "kept after the last stage")
    assert_close(output.last_hidden_state, case["last_hidden"], "last_hidden", atol=1e-5)
    for index, ours in enumerate(decoded):
        assert_close(ours, case[f"decoded{index}"], f"decoded{index}", atol=1e-5)
    # The earlier stages, each as the last of a shorter list.
    for stage in range(1, len(layers)):
        with (
            torch.no_grad(),
            reduce_tokens(model, "pyramiddrop", kept=kept[:stage], agg_layer=layers[:stage], image_mask=mask) as record,
        ):
            model(inputs_embeds=embeds)
        assert_same(record.positions[0], case[f"kept{stage - 1}"], f"kept after stage {stage - 1}")
