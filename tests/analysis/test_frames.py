"""Frames of a video as one picture: every visual token has its own cell, in its own frame."""

import numpy as np
import pytest
from PIL import Image

from analysis.frames import Sheet, contact_sheet
from analysis.report.build import _by_data
from analysis.report.evaluation import Evaluation
from analysis.report.payload import grid_of, sheet_of
from analysis.report.pictures import encode_pictures
from tokensel.data import Question, Video

# Frames, rows and columns; 17 columns of one row are a [CLS] and 4 x 4 patches, as in Video-LLaVA.
GRIDS = [(1, 2, 2), (3, 2, 3), (4, 3, 3), (8, 2, 2), (7, 3, 2), (17, 1, 2), (8, 1, 17), (3, 1, 5)]


def painted(index: int, rows: int, columns: int, cell: int = 28) -> Image.Image:
    """A frame whose patches tell their place: red is the row, green the column, blue the frame."""
    pixels = np.zeros((rows * cell, columns * cell, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = (
                9 * row,
                9 * column,
                9 * index,
            )
    return Image.fromarray(pixels)


def patches_of(grid):
    frames, rows, columns = grid
    side = {17: 4, 5: 2}.get(columns) if rows == 1 else None
    return (frames, side, side, True) if side else (frames, rows, columns, False)


@pytest.mark.parametrize("grid", GRIDS)
def test_each_token_is_drawn_on_its_own_patch_of_its_own_frame(grid):
    frames, rows, columns, special = patches_of(grid)
    sheet = Sheet(*grid)
    pixels = np.asarray(sheet.draw([painted(index, rows, columns) for index in range(frames)]))
    height, width = pixels.shape[0] / sheet.grid[0], pixels.shape[1] / sheet.grid[1]
    assert height == width
    token = 0
    for index in range(frames):
        expected = [(255, 255, 255)] * special  # the [CLS] is no part of the frame
        expected += [(9 * row, 9 * column, 9 * index) for row in range(rows) for column in range(columns)]
        for color in expected:
            (place,) = sheet.places([token])
            row, column = divmod(place, sheet.grid[1])
            middle = pixels[int((row + 0.5) * height), int((column + 0.5) * width)]
            assert tuple(middle.tolist()) == color, (index, token)
            token += 1
    assert token == sheet.count
    assert len(set(sheet.places(range(sheet.count)))) == sheet.count


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_go_where_their_tokens_are(grid):
    sheet = Sheet(*grid)
    weights = np.random.default_rng(0).random((2, sheet.count)).astype(np.float32) + 1
    drawn = sheet.spread(weights)
    assert drawn.shape == (2, sheet.grid[0] * sheet.grid[1])
    for token, place in enumerate(sheet.places(range(sheet.count))):
        assert (drawn[:, place] == weights[:, token]).all()
    assert np.isclose(drawn.sum(), weights.sum())  # nothing anywhere else


def test_a_model_that_reads_two_frames_as_one_shows_the_first_of_each():
    sheet = Sheet(2, 1, 1)
    pixels = np.asarray(sheet.draw([painted(index, 1, 1) for index in range(4)]))
    assert [int(pixels[14, 14 + 28 * index, 2]) for index in range(2)] == [0, 18]
    assert sheet.draw([painted(0, 1, 1)] * 3).size == (56, 28)  # of three, the third and none


def test_a_video_of_fewer_frames_leaves_their_places_empty():
    pixels = np.asarray(Sheet(4, 1, 1).draw([painted(1, 1, 1)] * 2))
    assert pixels.shape == (28, 112, 3)
    assert (pixels[:, 56:] == 255).all()


@pytest.mark.parametrize(("count", "size"), [(1, (60, 40)), (4, (240, 40)), (8, (240, 80)), (32, (480, 160))])
def test_frames_without_tokens_stand_in_lines(count, size):
    assert contact_sheet([Image.new("RGB", (60, 40))] * count).size == size
    assert contact_sheet([Image.new("RGB", (600, 400))]).size == (224, 149)


def question(id: str, frames: int = 8) -> Question:
    return Question(id, "?", ("a", "b"), 0, None, video=Video([painted(k, 4, 4) for k in range(12)]), frames=frames)


def test_the_page_has_the_frames_of_videos_and_says_why_one_has_none():
    broken = Question("lost", "?", ("a", "b"), 0, None, video=Video("/nowhere"))
    known = {each.id: each for each in (question("v"), broken)}
    pictures = encode_pictures(known, known, side=40, budget_bytes=9999)
    assert list(pictures.uris) == ["v"]
    assert "question lost: video /nowhere does not exist" in pictures.lost["lost"]


class Row:
    """A row of a table with its provenance."""

    is_complete, point = True, {"data_digest": "same"}

    def __init__(self, **protocol):
        self.provenance = {"protocol": protocol}


def evaluation(*protocols):
    made = Evaluation("p", "p", [], [], [], "")
    made.rows = [Row(**protocol) for protocol in protocols]
    return made


def test_tokens_of_videos_are_drawn_in_the_layout_of_their_frames():
    video = {"visual_tokens": 32, "video_grid": [8, 2, 2]}
    assert sheet_of(evaluation(video, video)) == Sheet(8, 2, 2)
    assert grid_of(evaluation(video, video)) == (4, 8)
    assert (sheet_of(evaluation({"visual_tokens": 36})), grid_of(evaluation({"visual_tokens": 36}))) == (None, (6, 6))
    other = video | {"video_grid": [4, 2, 4]}
    assert sheet_of(evaluation(video, other)) is None
    # On a page of several models, frames in another layout are other pictures.
    first, second, third = evaluation(video), evaluation(other), evaluation(video)
    assert _by_data([first, second, third]) == [[first, third], [second]]
