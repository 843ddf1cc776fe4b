"""DART's official decoder: the tokens that stay, and what the decoder makes of them."""

import torch

from helpers.official import Case, assert_close, assert_same
from helpers.official.decoder import decoder_of, image_mask_of
from tokensel import reduce_tokens


def check(case: Case) -> None:
    settings = case.settings
    model, embeds = decoder_of(case), case["embeds"]
    options = {"pivots": settings["pivot_image_token"], "text_pivots": settings["pivot_text_token"]}
    with (
        torch.no_grad(),
        reduce_tokens(
            model,
            "dart",
            kept=settings["max_num_trunction"],
            agg_layer=settings["layer"],
            image_mask=image_mask_of(case),
            **options,
        ) as record,
    ):
        output = model(inputs_embeds=embeds)
    assert record.positions.shape[1] == settings["kept"], f"{record.positions.shape[1]} tokens kept"
    assert_same(record.positions[0], case["retained"], "retained")
    assert_close(output.last_hidden_state, case["last_hidden"], "last_hidden", atol=1e-5)
