"""Questions about videos as tensors: frames, prompts, batches, and what is refused."""

import numpy as np
import pytest
import torch
from helpers.evaluation import assert_same_predictions, evaluate_points
from helpers.families import QUESTIONS, load_family, make_question
from helpers.videos import VIDEO_FAMILIES, VIDEO_QUESTIONS, make_video, make_video_question
from PIL import Image

from tokensel import TokenselError
from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models.frame_processor import FrameProcessor, _video_class


@pytest.mark.sampled
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_prompt_has_a_video_token_for_each_place_of_the_frames_and_the_model_sees_them(family):
    loaded = load_family(family)
    inputs = loaded.prepare(VIDEO_QUESTIONS)
    count, (frames, rows, cols) = loaded.video_shape(VIDEO_QUESTIONS[0].load_frames())
    assert (inputs["input_ids"] == loaded.model.config.video_token_id).sum(1).tolist() == [count] * 3
    assert count == frames * rows * cols + (family == "llava_onevision")
    assert frames == (2 if family.startswith("qwen") else 4)
    others = [make_video_question(f"other {question.id}", 1) for question in VIDEO_QUESTIONS]
    same = {name: value for name, value in loaded.prepare(others).items() if name == "pixel_values_videos"}
    with torch.no_grad():
        assert not torch.allclose(loaded.model(**inputs).logits, loaded.model(**inputs | same).logits)
    assert torch.equal(loaded.tokenize(VIDEO_QUESTIONS)[0], inputs["input_ids"])


def test_the_positions_of_qwen_s_frames_follow_time():
    loaded = load_family("qwen2_5_vl")
    inputs = loaded.prepare(VIDEO_QUESTIONS[:1])
    assert inputs["second_per_grid_ts"].tolist() == [1.0]  # two frames, at two a second
    inputs["second_per_grid_ts"] = torch.tensor([3.0])  # as of a slower video
    ids = loaded.family.position_ids(loaded.model.model, inputs["input_ids"], None, inputs)
    visual = (inputs["input_ids"][0] == loaded.model.config.video_token_id).nonzero()[:, 0]
    apart = 3 * int(loaded.model.config.vision_config.tokens_per_second)
    assert (ids[0, 0, visual[8:]] - ids[0, 0, visual[:8]]).tolist() == [apart] * 8
    assert torch.equal(ids[1:, 0, visual[8:]], ids[1:, 0, visual[:8]])


def test_the_times_of_qwen3_s_frames_stand_between_them():
    loaded = load_family("qwen3_vl")
    ids = loaded.prepare(VIDEO_QUESTIONS[:1])["input_ids"][0]
    video = loaded.model.config.video_token_id
    runs = (ids == video).int().diff().eq(1).sum()
    assert int(runs) == 2  # of four frames, two and two


def made_by(settings, kind, frames):
    return FrameProcessor(settings, _video_class(kind))([frames])


def test_frames_are_prepared_as_pictures_are():
    loaded, frames = load_family("llava_next_video"), make_video().load_frames(4)
    made = made_by(
        {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}, "llava_next_video", frames
    )
    plain = load_family("llava").processor.image_processor
    expected = torch.stack([plain(images=frame, return_tensors="pt")["pixel_values"][0] for frame in frames])
    torch.testing.assert_close(made["pixel_values_videos"][0], expected)
    assert loaded.processor.video_processor.merge_size is None


def test_patches_of_two_frames_stand_together_and_an_odd_frame_is_repeated():
    frames = [Image.new("RGB", (28, 28), color) for color in ("red", "lime", "blue")]
    made = made_by({"size": {"shortest_edge": 784, "longest_edge": 9999}, "patch_size": 14}, "qwen2_vl", frames)
    assert made["video_grid_thw"].tolist() == [[2, 2, 2]]
    patches = made["pixel_values_videos"].view(2, 4, 3, 2, 14, 14)  # pairs, patches, colours, frames of the pair
    assert patches.std((4, 5)).max() < 1e-5
    brightest = patches.mean((4, 5)).argmax(2)
    assert brightest.tolist() == [[[0, 1]] * 4, [[2, 2]] * 4]


def test_the_size_of_qwen_s_frames_is_bounded_by_the_settings():
    frames = [Image.new("RGB", (300, 300))] * 4
    for settings, kind, rows in (
        ({"size": {"shortest_edge": 784, "longest_edge": 28 * 28 * 17}, "patch_size": 14}, "qwen2_vl", 8),
        ({"min_pixels": 784, "max_pixels": 28 * 28 * 5, "patch_size": 14}, "qwen2_vl", 4),
        # The bound of all four frames together.
        ({"size": {"shortest_edge": 784, "longest_edge": 28 * 28 * 17}, "patch_size": 14}, "qwen3_vl", 4),
    ):
        made = made_by(settings | {"merge_size": 2, "temporal_patch_size": 2}, kind, frames)
        assert made["video_grid_thw"].tolist() == [[2, rows, rows]]
    capped = {
        "cap_pixels_per_frame": True,
        "max_video_tokens": 16,
        "size": {"shortest_edge": 784, "longest_edge": 99999},
    }
    assert made_by(capped | {"patch_size": 14}, "qwen2_vl", frames)["video_grid_thw"].tolist() == [[2, 4, 4]]


QWEN3 = {"size": {"shortest_edge": 4096, "longest_edge": 200_000}}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llava_next_video", {}),
        ("video_llava", {}),
        ("llava_onevision", {}),
        ("qwen2_vl", {"cap_pixels_per_frame": False}),
        ("qwen2_vl", {"cap_pixels_per_frame": True, "max_video_tokens": 500}),
        ("qwen3_vl", QWEN3 | {"cap_pixels_per_frame": False}),
        ("qwen3_vl", QWEN3 | {"cap_pixels_per_frame": True, "max_video_tokens": 20}),
    ],
)
def test_frames_are_those_of_the_family_s_own_video_processor_where_torchvision_is_there(kind, settings):
    pytest.importorskip("torchvision")
    frames = make_video(6, (300, 170)).load_frames(6)
    clip = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames])
    stock = _video_class(kind)(**settings)(videos=[clip], return_tensors="pt", do_sample_frames=False)
    made = made_by(settings, kind, frames)
    # torchvision's resizing rounds differently, by a few of 255 levels in few places.
    torch.testing.assert_close(made["pixel_values_videos"], stock["pixel_values_videos"], atol=0.06, rtol=0)
    assert (made["pixel_values_videos"] - stock["pixel_values_videos"]).abs().mean() < 1e-3
    if "video_grid_thw" in stock:
        assert torch.equal(made["video_grid_thw"], torch.as_tensor(stock["video_grid_thw"]))


@pytest.mark.slow
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_videos_of_any_shape_are_evaluated_alike_in_every_batch(family, tmp_path):
    shapes = [(4, (100, 60)), (2, (60, 100)), (4, (100, 60))]
    asked = [make_video_question(f"q{place}", place % 3 + 1, *shape) for place, shape in enumerate(shapes)]
    asked += [
        make_question("pictured", 2),
        Question(id="blind", text="what?", choices=("red", "teal"), answer=1, image=None),
    ]
    points = [GridPoint("fps", 4), GridPoint("fastv", 4, scope="frame"), GridPoint("fastvid", 5)]
    found = {}
    for size in (1, 6):
        ordered = asked[::-1] if size == 1 else asked
        found[size], failures = evaluate_points(
            load_family(family), tmp_path / str(size), ordered, points, batch_size=size
        )
        assert not failures
    assert found[1][0].keys() == {each.id for each in asked}
    assert_same_predictions(found[1], found[6])


def test_a_control_that_makes_pictures_smaller_fails_alone_where_videos_are_shown(tmp_path):
    points = [GridPoint("full"), GridPoint("downsample", 4)]
    found, failures = evaluate_points(load_family("llava_onevision"), tmp_path, VIDEO_QUESTIONS[:1], points)
    assert "a" in found[0]
    assert "downsample: makes pictures smaller, and question a shows a video" in str(failures)


def test_what_cannot_be_asked_about_a_video_is_refused_in_one_line():
    llava, video = load_family("llava"), load_family("video_llava")
    message = r"^question a: shows a video; with model_type=llava only questions about pictures are tested$"
    with pytest.raises(BadSampleError, match=message):
        llava.shape_of(VIDEO_QUESTIONS[0], llava.load_images(VIDEO_QUESTIONS[0]))
    with pytest.raises(BadSampleError, match=message):
        llava.encode(VIDEO_QUESTIONS)
    with pytest.raises(TokenselError, match=r"^question b: shows no video, but others of its batch do$"):
        video.encode([VIDEO_QUESTIONS[0], QUESTIONS[1]])
    written = Question(id="w", text="a <video>?", choices=("a", "b"), answer=0, image=None, video=make_video())
    with pytest.raises(BadSampleError, match=r"^question w: its text contains the video token <video>$"):
        video.prompt(written)


def test_a_video_stands_before_the_words_in_every_template():
    video = load_family("video_llava")
    assert video.prompt(VIDEO_QUESTIONS[0]).startswith("USER: <video>\nwhat?")
    vicuna = video.with_protocol(Protocol(conv="vicuna_v1"))
    assert " USER: <video>\nwhat?" in vicuna.prompt(VIDEO_QUESTIONS[0])
