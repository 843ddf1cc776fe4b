"""The bundled videos: balanced, the same every time, and answered as a slow look at their pixels answers them."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from tokensel.data import load_questions, moving_shapes
from tokensel.data.drawing import PALETTE
from tokensel.data.motion import COLORS, KINDS, LENGTH, SIDE
from tokensel.data.moving_shapes import DIRECTIONS, EQUAL, FAMILIES, ONE_FRAME, SIZES, load_moving_shapes
from tokensel.errors import TokenselError

EVERY, SPLITS = tuple(FAMILIES), ("test", "train")
LATER = tuple(family for family in EVERY if family not in ONE_FRAME)


def test_there_are_200_questions_of_8_families():
    questions = load_questions("moving_shapes")
    assert len(questions) == len({q.id for q in questions}) == 200
    assert Counter(q.family for q in questions) == dict.fromkeys(EVERY, 25)
    assert {q.family for q in questions if q.topic == "one frame"} == set(ONE_FRAME)
    assert all(len(q.video.source) == LENGTH and q.frames == 8 for q in questions)


def test_a_question_draws_the_same_frames_every_time():
    first = load_moving_shapes(families=["faster"], per_family=1)[0].load_frames()
    moving_shapes.make_clip.cache_clear()
    again = load_moving_shapes(families=["faster"], per_family=1)[0].load_frames()
    assert [frame.size for frame in first] == [(SIDE, SIDE)] * 8
    assert [frame.tobytes() for frame in first] == [frame.tobytes() for frame in again]
    assert len({frame.tobytes() for frame in first}) == 8


def test_train_and_test_never_share_a_video():
    shown = [moving_shapes.make_clip(family, split, k).scene for family in EVERY for split in SPLITS for k in range(25)]
    assert len({repr(scene) for scene in shown}) == len(shown)


@cache
def seen(frames: tuple[bytes, ...]) -> dict[str, list[tuple[float, float, int, float] | None]]:
    """Of each colour that occurs: in each frame its centre, its number of pixels, and the share of its box that these
    fill; None where it does not occur."""
    weights = np.array([1 << 16, 1 << 8, 1])
    coded = [np.frombuffer(frame, np.uint8).reshape(SIDE, SIDE, 3) @ weights for frame in frames]
    found = {}
    for color in COLORS:
        track = []
        for pixels in coded:
            rows, columns = np.nonzero(pixels == PALETTE[color] @ weights)
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) if len(rows) else 0
            track.append((columns.mean(), rows.mean(), len(rows), len(rows) / box) if box else None)
        if any(track):
            found[color] = track
    return found


def kind_of(share: float) -> str:
    """The kind of shape that fills this share of its box: a circle pi / 4, a square all, a triangle half."""
    shares = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "star": 0.36}
    return min(KINDS, key=lambda kind: abs(shares[kind] - share))


def distance(color):
    places = np.array([place[:2] for place in color])
    return float(np.abs(np.diff(places, axis=0)).sum())


def named(video, text):
    """The track of the shape that the text names by its colour."""
    return video[next(color for color in COLORS if f" {color} " in text)]


def answer_from_pixels(question):
    video = seen(tuple(frame.tobytes() for frame in question.load_frames()))
    text, kinds = question.text, {color: kind_of(track[0][3]) for color, track in video.items() if track[0]}
    match question.family:
        case "color":
            return next(color for color, kind in kinds.items() if f" {kind}?" in text)
        case "shape":
            return next(kind for color, kind in kinds.items() if f" {color}?" in text)
        case "direction":
            track = named(video, text)
            right, down = track[-1][0] - track[0][0], track[-1][1] - track[0][1]
            assert min(abs(right), abs(down)) < 1
            along = ("right" if right > 0 else "left") if abs(right) > abs(down) else ("down" if down > 0 else "up")
            assert max(abs(right), abs(down)) > 40
            return along
        case "faster":
            (far, one), (near, _) = sorted(((distance(track), color) for color, track in video.items()), reverse=True)
            return EQUAL if far < 1.2 * near else f"the {one} {kinds[one]}"
        case "count":
            return str(len(video))
        case "last":
            return max(video, key=lambda color: next(k for k, place in enumerate(video[color]) if place))
        case "stops":
            track = named(video, text)
            assert distance(track[:3]) > 2
            return "it stops" if distance(track[-2:]) < 1 else "it moves until the video ends"
        case "size":
            track = named(video, text)
            ratio = track[-1][2] / track[0][2]
            return "it grows" if ratio > 2 else "it shrinks" if ratio < 0.5 else "its size stays the same"


@pytest.mark.parametrize("family", EVERY)
def test_eight_frames_answer_as_the_data_set_says(family):
    for question in load_moving_shapes(families=[family], per_family=3):
        assert answer_from_pixels(question) == question.choices[question.answer], question.id


@pytest.mark.slow
@pytest.mark.parametrize("family", EVERY)
def test_eight_frames_answer_every_question(family):
    for question in load_moving_shapes(families=[family]):
        assert answer_from_pixels(question) == question.choices[question.answer], question.id


@pytest.mark.slow
@pytest.mark.parametrize("family", EVERY)
def test_the_whole_video_answers_as_eight_frames_do(family):
    for question in load_moving_shapes(families=[family], per_family=3, frames=LENGTH):
        assert answer_from_pixels(question) == question.choices[question.answer], question.id


@pytest.mark.parametrize("family", ONE_FRAME)
def test_one_frame_answers_some(family):
    for question in load_moving_shapes(families=[family], per_family=4, frames=1):
        assert len(question.load_frames()) == 1
        assert answer_from_pixels(question) == question.choices[question.answer]


@pytest.mark.parametrize("family", LATER)
def test_the_first_frame_says_nothing_of_the_answer_of_others(family, monkeypatch):
    """Whatever the answer is made to be, the first frame is the same, and a later one is not."""
    plain = moving_shapes._right_first

    def clip_of(index, turn):
        def turned(rng, choices):
            order = plain(rng, choices)
            return order[turn:] + order[:turn]

        monkeypatch.setattr(moving_shapes, "_right_first", turned)
        moving_shapes.make_clip.cache_clear()
        return moving_shapes.make_clip(family, "test", index)

    for index in range(6):
        clips = [clip_of(index, turn) for turn in range(2 if family == "stops" else 3)]
        assert len({clip.choices[0] for clip in clips}) == len(clips)
        assert len({clip.text for clip in clips}) == 1
        assert len({clip.scene.frame(0).tobytes() for clip in clips}) == 1
        assert len({repr(clip.scene) for clip in clips}) == len(clips)
    moving_shapes.make_clip.cache_clear()


@pytest.mark.parametrize("family", EVERY)
def test_no_answer_is_more_frequent_than_chance(family):
    """Neither by its letter nor by its words: what a model could guess that sees nothing."""
    questions = load_moving_shapes(families=[family], per_family=240)
    size = len(questions[0].choices)
    letters = Counter(question.answer for question in questions)
    words = Counter(question.choices[question.answer] for question in questions)
    bound = len(questions) / size + 4 * (len(questions) / size) ** 0.5
    assert set(letters) == set(range(size))
    assert max(letters.values()) <= bound
    if family in ("direction", "count", "stops", "size"):
        assert set(words) == set(questions[0].choices)
    assert max(words.values()) <= bound
    if family == "faster":
        assert words[EQUAL] >= len(questions) / 3 - 4 * (len(questions) / 3) ** 0.5


def test_choices_are_those_that_the_scenes_can_have():
    asked = {family: load_moving_shapes(families=[family], per_family=3) for family in ("direction", "size")}
    assert all(set(question.choices) == set(DIRECTIONS) for question in asked["direction"])
    assert all(set(question.choices) == set(SIZES) for question in asked["size"])


def test_shapes_stay_whole_and_apart():
    for family in EVERY:
        for index in range(25):
            scene = moving_shapes.make_clip(family, "test", index).scene
            assert len({mover.color for mover in scene.movers}) == len(scene.movers)
            for t in range(0, LENGTH, 5):
                there = [mover.track[t] for mover in scene.movers if mover.track[t]]
                for k, (x, y, radius) in enumerate(there):
                    assert 1.15 * radius <= min(x, y, SIDE - x, SIDE - y), (family, index, t)
                    for other in there[:k]:
                        apart = max(abs(x - other[0]), abs(y - other[1]))
                        assert apart > 1.15 * radius + 1.15 * other[2] - 14, (family, index, t)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "data.split=val: unknown; choose one of test, train"),
        ({"families": ["jump"]}, "data.families=jump: unknown; choose one of color"),
        ({"frames": 0}, "data.frames=0: must be at least 1"),
        ({"per_family": 0}, "data.per_family=0: must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(TokenselError, match=message):
        load_questions("moving_shapes", **options)
