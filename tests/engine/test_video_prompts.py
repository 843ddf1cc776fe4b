"""Prompts with a picture and a video, or with several videos; and what is refused."""

import inspect

import pytest
import torch
from helpers.families import load_family, make_picture
from helpers.videos import VIDEO_FAMILIES, Loudest, entering, make_video, one, visual_places

from tokensel import TokenselError, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import make_stages
from tokensel.models.families.base import accepted


def mixed(loaded, text="{image} and {video} end"):
    """One prompt with a picture and a video."""
    processor = loaded.processor
    tokens = {"image": processor.image_token, "video": processor.video_token}
    images, videos = [make_picture(seed=3)], [make_video(seed=5).load_frames(4)]
    made = processor(images=images, videos=videos, text=[text.format(**tokens)], return_tensors="pt")
    shown = {name: torch.as_tensor(value) for name, value in made.items() if name != "video_metadata"}
    return accepted(loaded.model.forward, shown)


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_picture_and_a_video_of_one_prompt_are_reduced_each_by_itself(family):
    loaded = load_family(family)
    model = loaded.model
    for text in ("{image} and {video} end", "{video} then {image} end"):
        inputs = mixed(loaded, text)
        ids, config = inputs["input_ids"][0], model.config
        pictured = (ids == config.image_token_id).nonzero()[:, 0].tolist()
        video = [place for frame in visual_places(family, loaded, inputs) for place in frame]
        with reduce_tokens(model, Loudest(), kept="25%", agg_layer=0) as record:
            logits = model(**inputs).logits
        hidden, *_ = entering(model, inputs)
        shares = [len(group) for group in (pictured, video)]
        kept = round(sum(shares) / 4 + 1e-6)
        left = record.indices[0].tolist()
        counts = [len(set(left) & set(group)) for group in (pictured, video)]
        assert sum(counts) == kept
        assert all(abs(count - kept * share / sum(shares)) <= 1 for count, share in zip(counts, shares, strict=True))
        for group, count in zip((pictured, video), counts, strict=True):
            loudest = sorted(group, key=lambda place: -hidden[place].norm())[:count]
            assert set(left) & set(group) == set(loudest)
        split = SplitModel(model)
        stages = make_stages(Loudest(), kept="25%", agg_layer=0)
        pieces = split.logits(split.reduce_all(split.embed(**inputs), stages))
        torch.testing.assert_close(pieces, logits[:, -1], atol=1e-4, rtol=1e-4)
        message = (
            "^pixel_values_videos: beside pixel_values; methods that use the vision tower take pictures or a video$"
        )
        with pytest.raises(TokenselError, match=message), reduce_tokens(model, "fastervlm", kept=4):
            model(**inputs)


@torch.no_grad()
def test_a_video_of_a_family_that_is_not_tested_with_videos_stays_whole_and_says_so():
    loaded = load_family("llava_onevision")
    model, inputs = loaded.model, one(loaded, 0)
    said = "^pixel_values_videos: with model_type=llava_onevision only the visual tokens of pictures are reduced, not a"
    plain = model(**inputs).logits
    with reduce_tokens(model, "fps", kept=4, family="llava_next") as record, pytest.warns(UserWarning, match=said):
        assert torch.equal(model(**inputs).logits, plain)
    assert record.positions is None
    assert "not a video's" in record.unreduced


@torch.no_grad()
def test_features_without_the_video_and_an_unknown_scope_are_refused_in_one_line():
    loaded = load_family("llava_next_video")
    model, inputs = loaded.model, one(loaded, 0)
    with pytest.raises(TokenselError, match=r"^scope='frames': choose from video, frame$"):
        reduce_tokens(model, "fps", kept=4, scope="frames")
    video = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    message = r"^mm_encoder_outputs: features do not show a video's frames; give pixel_values_videos too$"
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return  # older versions of transformers take no features
    with pytest.raises(TokenselError, match=message), reduce_tokens(model, "fps", kept=4, agg_layer=0):
        model(inputs["input_ids"], mm_encoder_outputs={"video": video})


@torch.no_grad()
def test_two_videos_of_one_prompt_are_reduced_each_by_itself_if_text_stands_between_them():
    loaded = load_family("llava_onevision")
    model, processor = loaded.model, loaded.processor
    clips = [make_video(seed=seed).load_frames(4) for seed in (1, 5)]
    made = {}
    for between in (" and ", ""):
        text = f"{processor.video_token}{between}{processor.video_token} end"
        made[between] = dict(processor(videos=clips, text=[text], return_tensors="pt"))
        made[between].pop("video_metadata", None)
    with reduce_tokens(model, Loudest(), kept=6, agg_layer=0) as record:
        model(**made[" and "])
    hidden, *_ = entering(model, made[" and "])
    places = (made[" and "]["input_ids"][0] == model.config.video_token_id).nonzero()[:, 0].tolist()
    first, second = places[:16], places[17:33]  # behind each, its newline
    expected = [sorted(group, key=lambda place: -hidden[place].norm())[:3] for group in (first, second)]
    assert record.indices[0].tolist() == sorted(expected[0]) + sorted(expected[1])
    message = (
        r"^pixel_values_videos: 33 visual tokens of videos per prompt, but .* 4 x 2 x 2, 4 x 2 x 2; put text between"
    )
    with pytest.raises(TokenselError, match=message), reduce_tokens(model, "fps", kept=6):
        model(**made[""])


@torch.no_grad()
@pytest.mark.parametrize("method", ["pool", "grid", "feather", "vscan"])
def test_methods_that_know_rows_and_columns_only_are_refused_for_a_whole_video_and_work_per_frame(method):
    loaded = load_family("llava_next_video")
    model, inputs = loaded.model, one(loaded, 0)
    message = f"^method '{method}': knows the rows and columns of pictures only, and this is a video; use scope=frame$"
    settings = {"kept": 8, "agg_layer": 0 if method == "vscan" else None}
    with pytest.raises(TokenselError, match=message), reduce_tokens(model, method, **settings):
        model(**inputs)
    with reduce_tokens(model, method, **settings, scope="frame") as record:
        model(**inputs)
    frames = [each // 4 for each in record.positions[0].tolist()]
    assert frames == [0, 0, 1, 1, 2, 2, 3, 3] or method in ("feather", "vscan")
    assert set(frames) == {0, 1, 2, 3}
