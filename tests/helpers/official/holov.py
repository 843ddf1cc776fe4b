"""HoloV's official scores and quotas of the bands, and its choice with rows of zeros."""

import torch

from helpers.official import Case, assert_close, assert_same, assert_same_set
from tokensel import make_method
from tokensel.functional import band_scores
from tokensel.testing import make_context


def check(case: Case) -> None:
    settings, tokens = case.settings, case["features"][None]
    kept, crops = settings["new_image_token_num"], settings["num_patches"]
    context = make_context(kept, tokens=tokens, layer=0, cls_attention=case["cls_attention"][None])
    attention = context.vision.cls_attention().mean(1)
    released = make_method("holov", crops=crops, as_released=True)
    assert_close(band_scores(tokens, attention, crops, lone=1)[0], case["patch_scores"], "patch_scores")
    assert_same(released.quotas(context, attention)[0], case["allocated"], "allocated")
    selection = released.select(context)
    official = torch.cat([case["kept"], torch.full((settings["zero_rows"],), -1)])
    assert_same(selection.indices[0], official, "kept")
    zeros = tokens.new_zeros(settings["zero_rows"], tokens.shape[2])
    assert_close(selection.values[0], torch.cat([tokens[0, case["kept"]], zeros]), "values")
    ours = make_method("holov", crops=crops).select(context).indices[0]
    # Without the release's quirks bands of one token score like others; the quotas differ where both are there.
    mixed = crops < tokens.shape[1] < 2 * crops
    if settings["zero_rows"] == 0 and not mixed:
        assert_same_set(ours, case["kept"], "kept, in the order of the picture")
    assert ours.tolist() == sorted(set(ours.tolist())), "ascending"
    assert len(ours) == kept
