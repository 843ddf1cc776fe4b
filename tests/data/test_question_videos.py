"""Videos in question files, and reading video files with whichever decoder is installed."""

import json
import sys
from importlib.util import find_spec
from itertools import islice

import pytest
from PIL import Image

from tokensel.data import Question, Video, load_questions, video_file
from tokensel.data.question_file import load_question_file
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.digests import questions_digest

READERS = {"av": video_file._with_pyav, "torchcodec": video_file._with_torchcodec}


@pytest.fixture
def load(tmp_path):
    (tmp_path / "walk").mkdir()
    for number in range(12):
        Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / "walk" / f"{number}.png")

    def load_entries(*entries, name="questions.jsonl", text=None, **options):
        (tmp_path / name).write_text("\n".join(map(json.dumps, entries)) if text is None else text)
        return load_question_file(tmp_path / name, **{"image_folder": tmp_path} | options)

    return load_entries


def entry(**changes):
    return {"id": "q", "video": "walk", "question": "Does it walk?", "answer": "yes"} | changes


def test_an_entry_with_a_video_is_a_question_about_its_frames(load, tmp_path):
    (question,) = load(entry())
    assert (question.video, question.frames) == (Video(tmp_path / "walk"), 8)
    assert (question.image, question.image_id, question.form) == (None, "walk", "yes_no")
    assert [frame.getpixel((0, 0))[0] for frame in question.load_frames()] == [0, 1, 3, 4, 6, 7, 9, 11]
    (fewer,) = load(entry(), frames=3)
    assert len(fewer.load_frames()) == 3


def test_questions_about_one_video_share_its_id_and_others_do_not(load, tmp_path):
    first, second, still = load(
        entry(), entry(id="r", video="./walk/"), {"id": "s", "image": "walk/0.png", "question": "?", "answer": "no"}
    )
    assert first.picture_ids == second.picture_ids != still.picture_ids
    assert (still.video, still.frames) == (None, 8)


def test_csv_and_conversations_say_the_same_as_plain_fields(load):
    plain = load(entry())
    assert load(name="q.csv", text="id,video,question,answer\nq,walk,Does it walk?,yes\n") == plain
    for place in ("<image>\n", "<video>\n", ""):
        talk = [{"from": "human", "value": f"{place}Does it walk?"}, {"from": "gpt", "value": "yes"}]
        assert load({"id": "q", "video": "walk", "conversations": talk}) == plain
    assert load(entry(question="<video>\nDoes it walk?")) == plain


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": "a.png"}, "has both image and video; give one of them"),
        ({"images": ["a.png"]}, "has both images and video; give one of them"),
        ({"video": 3}, "video is not a path"),
        ({"video": ["a", "b"]}, "video is not a path"),
        ({"video": "../walk"}, "video ../walk is outside "),
        ({"question": "Does <video> walk?"}, "has <video> inside its words; one is allowed, before or after them"),
        ({"question": "Does <image> walk?"}, "has <image> inside its words"),
        ({"turns": [{"question": "?", "answer": "x", "video": "walk"}]}, "turn 2: field 'video' is unknown"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(load, changes, told):
    with pytest.raises(TokenselError) as caught:
        load(entry(id="p"), entry(**changes))
    assert "questions.jsonl: line 2 (id q): " in str(caught.value)
    assert told in str(caught.value)


def test_a_video_needs_its_folder_and_frames_at_least_one(load):
    with pytest.raises(TokenselError, match=r"line 1 \(id q\): has the video walk, so data.image_folder is needed"):
        load(entry(), image_folder=None)
    with pytest.raises(TokenselError, match=r"data.frames=0: must be at least 1"):
        load(entry(), frames=0)
    with pytest.raises(TokenselError, match=r"data.frames=few: must be an integer"):
        load_questions("question_file", path="q.jsonl", frames="few")


def test_a_missing_video_is_a_bad_sample(load):
    (question,) = load(entry(video="lost"))
    with pytest.raises(BadSampleError, match=r"question q: video .*lost does not exist"):
        question.load_frames()


@pytest.fixture
def no_decoder(monkeypatch):
    for name in ("av", "torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    video_file.find_reader.cache_clear()
    yield
    video_file.find_reader.cache_clear()


def test_without_a_decoder_one_line_names_both(load, tmp_path, no_decoder):
    (tmp_path / "a.mp4").write_bytes(b"a")
    both = r"reading video files needs torchcodec \(with FFmpeg\) or PyAV; pip install av, or give folders of frames"
    with pytest.raises(TokenselError, match=rf"questions.jsonl: line 2 \(id q\): video: {both}"):
        load(entry(id="p"), entry(video="a.mp4"))
    with pytest.raises(TokenselError, match=both) as caught:
        Question("q", "?", ("a", "b"), 0, None, video=Video(tmp_path / "a.mp4")).load_frames()
    assert not isinstance(caught.value, BadSampleError)  # no question could be asked, so none is skipped
    assert len(load(entry())[0].load_frames()) == 8  # a folder needs no decoder


@pytest.fixture(params=READERS)
def reader(request, monkeypatch):
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setattr(video_file, "find_reader", lambda: READERS[request.param])


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video of 30 frames, from dark to light, coded with frames that are stored out of order."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "3", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 16), (8 * number,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("count", [1, 8, 30, 64])
def test_frames_of_a_file_are_those_of_its_sequence(reader, film, count):
    frames = Video(film).load_frames(count)
    expected = [8 * (k * 29 // max(count - 1, 1)) for k in range(count)] if count < 30 else [8 * k for k in range(30)]
    assert all(frame.size == (32, 16) and frame.mode == "RGB" for frame in frames)
    assert [frame.getpixel((5, 5))[0] for frame in frames] == pytest.approx(expected, abs=3)


def test_a_broken_file_is_a_bad_sample(reader, film, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:-600])
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        with pytest.raises(BadSampleError, match=rf"question q: video .*{name} cannot be read \(") as caught:
            Question("q", "?", ("a", "b"), 0, None, video=Video(tmp_path / name)).load_frames()
        assert "\n" not in str(caught.value)


def test_a_stream_that_ends_before_its_last_packet_is_a_bad_sample(monkeypatch, film):
    """PyAV may decode fewer frames than there are packets, without an error."""
    av = pytest.importorskip("av")
    plain, counted = av.open, []

    def shorter(path):
        container = plain(path)
        if not counted:
            counted.append(path)
            return container
        return Shortened(container)

    class Shortened:
        def __init__(self, container):
            self.container, self.streams = container, container.streams

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def decode(self, video):
            return islice(self.container.decode(video=video), 20)

    monkeypatch.setattr(av, "open", shorter)
    monkeypatch.setattr(video_file, "find_reader", lambda: READERS["av"])
    with pytest.raises(BadSampleError, match=r"cannot be read \(ends before frame 21 of 30\)"):
        Video(film).load_frames(30)


def test_the_first_decoder_that_loads_is_used(monkeypatch):
    video_file.find_reader.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    monkeypatch.setitem(sys.modules, "av", sys)
    assert video_file.find_reader() is video_file._with_pyav
    video_file.find_reader.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", sys)
    monkeypatch.setitem(sys.modules, "torchcodec", sys)
    assert video_file.find_reader() is video_file._with_torchcodec
    video_file.find_reader.cache_clear()


def test_the_number_of_frames_changes_the_digest_only_of_videos():
    def digest(**changes):
        return questions_digest([Question("1", "what?", ("a", "b"), 0, None, **changes)])

    video = Video([Image.new("RGB", (4, 4))])
    assert digest() == digest(frames=4)
    assert len({digest(), digest(video=video), digest(video=video, frames=4)}) == 3
