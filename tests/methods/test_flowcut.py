"""FlowCut in a tower: what its options change, and its cost."""

import torch
from helpers.flops import counting
from helpers.models import IMAGE_TOKEN, PAD_TOKEN, llava_inputs, single_row, tiny_llama_config
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from tokensel import make_stages, reduce_tokens
from tokensel.evaluation.flops import prefill_cost
from tokensel.methods.flowcut import prune_tower
from tokensel.models.families import family_of
from tokensel.models.tap import VisionTap
from tokensel.models.tower_layer import run_layer


def deep_llava(layers: int, feature_layer: int = -2) -> LlavaForConditionalGeneration:
    """A LLaVA with a deeper tower than the other tests', on 36 patches."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": layers}
    tower = CLIPVisionConfig(image_size=84, patch_size=14, initializer_factor=10.0, **sizes)
    config = LlavaConfig(
        vision_config=tower,
        text_config=tiny_llama_config(),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=feature_layer,
        image_seq_length=36,
    )
    config.pad_token_id = PAD_TOKEN
    return LlavaForConditionalGeneration(config).eval()


@torch.no_grad()
def states_of(model, pictures=3):
    pixels = torch.randn(pictures, 3, 84, 84, generator=torch.Generator().manual_seed(5))
    tap = VisionTap(model.model, family_of(model.config))
    handles = tap.attach()
    model.model.get_image_features(pixels)
    for handle in handles:
        handle.remove()
    return tap.take({"pixel_values": pixels})


@torch.no_grad()
def test_pictures_are_independent_unless_as_released():
    vision = states_of(deep_llava(9))
    positions, features = prune_tower(vision, 7)
    released, _ = prune_tower(vision, 7, over_batch=True)
    assert released.tolist() != positions.tolist()
    for row in range(3):
        alone = vision.rows(torch.tensor([row]))
        for over_batch in (False, True):
            single, values = prune_tower(alone, 7, over_batch)
            assert single[0].tolist() == positions[row].tolist()
            torch.testing.assert_close(values[0], features[row], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_features_are_those_of_a_tower_that_sees_the_survivors_alone_at_last():
    vision = states_of(deep_llava(4))  # three layers count; all drops are after the second
    positions, features = prune_tower(vision, 7)
    rows = torch.arange(3)[:, None]
    entering = torch.cat([vision.entering[2][:, :1], vision.entering[2][rows, positions + 1]], 1)
    torch.testing.assert_close(features, run_layer(vision.layers[2], entering)[0][:, 1:], atol=1e-5, rtol=1e-5)


def test_its_cost_is_counted_in_towers_of_every_depth():
    for layers, feature_layer in ((3, -2), (4, -2), (5, -1), (9, -2), (9, 4)):
        model = deep_llava(layers, feature_layer)
        inputs = single_row(llava_inputs(model, texts=(7,)), 0)
        with counting(model) as counter, reduce_tokens(model, "flowcut", kept=5):
            model(**inputs, logits_to_keep=1)
        stages = make_stages("flowcut", kept=5)
        text = inputs["input_ids"].shape[1] - 36
        cost = prefill_cost(model.config, text_tokens=text, visual_tokens=36, stages=stages)
        assert cost.total == counter.total


@torch.no_grad()
def test_a_stage_in_the_decoder_follows_the_one_in_the_tower():
    model = deep_llava(5)
    inputs = llava_inputs(model, texts=(7, 3))
    with reduce_tokens(model, "flowcut", kept=[12, 5], agg_layer=[0, 2]) as record:
        model(**inputs)
        chosen = record.positions
    assert chosen.shape == (2, 5)
    with reduce_tokens(model, "flowcut", kept=12) as record:
        model(**inputs)
    for few, many in zip(chosen.tolist(), record.positions.tolist(), strict=True):
        assert set(few) < set(many)
