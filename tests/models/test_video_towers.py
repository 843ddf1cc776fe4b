"""What a vision tower computed of a video: each frame as if it were alone, and its patches as they are pooled."""

import pytest
import torch
from helpers.families import load_family
from helpers.videos import VIDEO_FAMILIES, make_video

from tokensel.engine.split import SplitModel


def states_of(loaded, frames):
    """The tower's states of a video, and its visual tokens."""
    inputs = loaded._run_processor([], [loaded.processor.video_token], [frames])
    shown = {name: value for name, value in inputs.items() if "video" in name or "second" in name}
    features, states = SplitModel(loaded.model).features(shown, uses_vision=True)
    return states, features[0]


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_frame_of_a_video_is_seen_as_if_it_were_the_only_one(family):
    loaded, frames = load_family(family), make_video().load_frames(4)
    each = 2 if family.startswith("qwen") else 1  # frames that one visual token shows
    whole, tokens = states_of(loaded, frames)
    attention, keys = whole.cls_attention_and_keys()
    parts = []
    for index in range(4 // each):
        part = whole.one_frame(index, 4 // each)
        alone, _ = states_of(loaded, frames[index * each : (index + 1) * each])
        for found, expected in zip(part.cls_attention_and_keys(), alone.cls_attention_and_keys(), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(part.keys(), alone.keys(), atol=1e-5, rtol=1e-4)
        parts.append(part)
    torch.testing.assert_close(torch.cat([part.cls_attention() for part in parts], 2), attention, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part.keys() for part in parts], 1), keys, atol=1e-5, rtol=1e-4)
    assert attention.shape[2] == len(tokens) - (family == "llava_onevision")  # the newline is no visual token


@torch.no_grad()
def test_attention_to_a_visual_token_is_that_to_the_patches_pooled_into_it():
    loaded, frames = load_family("llava_next_video"), make_video().load_frames(2)
    states, _ = states_of(loaded, frames)
    attention = states.cls_attention()[0]
    tower = loaded.model.model.vision_tower
    pixels = loaded._run_processor([], [loaded.processor.video_token], [frames])["pixel_values_videos"][0]
    tower.set_attn_implementation("eager")
    stock = tower(pixels, output_attentions=True).attentions[-2][:, :, 0, 1:]  # [frames, heads, 16]
    tower.set_attn_implementation("sdpa")
    for frame in range(2):
        for row in range(2):
            for col in range(2):
                patches = [(2 * row + down) * 4 + 2 * col + across for down in (0, 1) for across in (0, 1)]
                expected = stock[frame][:, patches].mean(1)
                torch.testing.assert_close(attention[:, frame * 4 + row * 2 + col], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_video_llava_has_a_class_token_in_front_of_each_frame_that_nothing_attends_to():
    states, tokens = states_of(load_family("video_llava"), make_video().load_frames(2))
    attention = states.cls_attention().sum((0, 1))
    assert attention[[0, 17]].tolist() == [0, 0]
    assert (attention > 0).sum() == len(tokens) - 2 == 32
