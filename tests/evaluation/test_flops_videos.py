"""Costs of prompts with a video by formula, against torch's FLOP counter on the same forward pass."""

import pytest
import torch
from helpers.families import load_family
from helpers.flops import counting
from helpers.videos import VIDEO_FAMILIES, one

from tokensel import make_stages, reduce_tokens
from tokensel.evaluation.flops import prefill_cost

POINTS = [
    ("full", {}),
    ("fps", {"kept": 8, "scope": "video"}),
    ("fps", {"kept": 8, "scope": "frame"}),
    ("fastv", {"kept": 8, "scope": "frame"}),
    ("fastervlm", {"kept": 8, "scope": "video"}),
    ("fastervlm", {"kept": 8, "scope": "frame"}),
    ("temporal_merge", {"kept": 3}),
    ("fastvid", {"kept": 9}),
]


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_the_cost_of_a_video_equals_what_torch_counts(family):
    loaded = load_family(family)
    model, inputs = loaded.model, one(loaded, 0)
    visual = int(loaded.family.video_tokens(model.config, inputs["input_ids"]).sum())
    text = inputs["input_ids"].shape[1] - visual
    for method, settings in POINTS[
        : -1 if family == "qwen3_vl" else None
    ]:  # whose deepstack features fastvid merges too
        reducing = reduce_tokens(model, method, **settings)
        with (
            counting(model, {torch.ops.aten.mv: lambda matrix, *rest, **more: 2 * matrix.numel()}) as counter,
            reducing,
        ):
            model(**inputs, use_cache=True, logits_to_keep=1)
        stages = make_stages(method, num_layers=4, **settings)
        cost = prefill_cost(model.config, text_tokens=text, visual_tokens=visual, stages=stages, pictures=inputs)
        assert (method, cost.total) == (method, counter.total)
        assert cost.selection_counted
