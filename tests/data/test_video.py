"""Videos: which frames are shown, and where they are read from."""

import numpy as np
import pytest
from PIL import Image

from tokensel.data import Question, Video
from tokensel.data.video import uniform_indices
from tokensel.errors import BadSampleError, TokenselError


def grey(value, size=(6, 4)):
    return Image.new("RGB", size, (value, value, value))


def ask(video, **changes):
    return Question("q", "?", ("a", "b"), 0, None, video=video, **changes)


def greys(frames):
    return [frame.getpixel((0, 0))[0] for frame in frames]


@pytest.fixture
def folder(tmp_path):
    """Twelve frames, named so that only natural order is their order."""
    for number in range(12):
        grey(number * 10).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 30, 301])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_frames_are_equally_spaced_from_first_to_last(total, count):
    chosen = uniform_indices(total, count)
    if total <= count:
        assert chosen == list(range(total))
        return
    # Exact in integers: the k-th of n frames is floor(k (total - 1) / (n - 1)).
    assert chosen == [k * (total - 1) // max(count - 1, 1) for k in range(count)]


def test_frames_of_a_folder_come_in_natural_order(folder):
    assert greys(Video(folder).load_frames(20)) == [10 * number for number in range(12)]
    assert greys(Video(str(folder)).load_frames(3)) == [0, 50, 110]


def test_frames_may_be_pictures_paths_and_functions(folder):
    opened = []
    video = Video([grey(1), folder / "frame3.png", lambda: opened.append("drawn") or grey(2), str(folder / "lost.png")])
    assert greys(Video(video.source[:3]).load_frames(8)) == [1, 30, 2]
    opened.clear()
    with pytest.raises(BadSampleError, match=r"video in memory: frame .*lost.png does not exist"):
        video.load_frames(2)
    assert not opened  # frames that are not chosen are not made
    assert video.load_frames(1)[0].mode == "RGB"


def test_a_question_shows_its_frames(folder):
    question = ask(Video(folder), frames=2)
    assert greys(question.load_frames()) == [0, 110]
    assert (question.image, question.pictures, question.is_visual) == (None, (), True)
    assert len(ask(Video(folder)).load_frames()) == 8
    assert Question("q", "?", ("a", "b"), 0, None).load_frames() == []


def test_the_same_frames_of_the_same_video_share_an_id(folder):
    def ids(**changes):
        return ask(Video(folder), **changes).picture_ids

    assert len(ids()) == 1
    assert ids(image_id="v") == ids(image_id="v", frames=8)
    assert ids(image_id="v") != ids(image_id="v", frames=4)
    assert ids(image_id="v") != ids(image_id="w")
    assert ids(image_id="v") != Question("q", "?", ("a", "b"), 0, grey(1), image_id="v").picture_ids


def test_frames_of_several_sizes_are_refused():
    with pytest.raises(BadSampleError, match=r"question q: video in memory: has frames of 6 x 4 and 9 x 4 pixels"):
        ask(Video([grey(1), grey(2, (9, 4))])).load_frames()


def test_a_broken_frame_names_question_video_and_frame(folder):
    (folder / "frame4.png").write_bytes((folder / "frame3.png").read_bytes()[:50])
    with pytest.raises(BadSampleError, match=r"question q: video .*: frame .*frame4.png cannot be read") as caught:
        ask(Video(folder), frames=12).load_frames()
    assert caught.value.question_id == "q"


def test_a_folder_without_pictures_and_a_missing_video_are_bad_samples(tmp_path):
    with pytest.raises(BadSampleError, match=r"question q: video .*: the folder has no pictures"):
        ask(Video(tmp_path)).load_frames()
    with pytest.raises(BadSampleError, match=r"question q: video .*lost.mp4 does not exist"):
        ask(Video(tmp_path / "lost.mp4")).load_frames()


def test_a_video_excludes_pictures_and_needs_frames():
    video = Video([grey(1)])
    with pytest.raises(TokenselError, match=r"has no frames; give a file"):
        Video([])
    with pytest.raises(TokenselError, match=r"question q: has a video and 1 picture\(s\)"):
        Question("q", "?", ("a", "b"), 0, grey(1), video=video)
    with pytest.raises(TokenselError, match=r"question q: frames=0: must be 1 or more"):
        ask(video, frames=0)
    with pytest.raises(TokenselError, match=r"its later turns must have no pictures, no video"):
        ask(video, turns=(ask(video),))


def test_frames_are_decoded_as_pictures_are():
    frame = Image.fromarray(np.full((4, 4), 257 * 9, np.uint16))
    assert greys(Video([frame]).load_frames(1)) == [9]
