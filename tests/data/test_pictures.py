"""Pictures of more than 8 bits per channel."""

import numpy as np
import pytest
from PIL import Image

from tokensel.data import Question
from tokensel.errors import BadSampleError

GREYS = np.tile(np.arange(256, dtype=np.uint8), (4, 1))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", GREYS.astype(np.uint16) * 257),
        ("16.tiff", GREYS.astype(np.uint16) * 257),
        ("float.tiff", GREYS.astype(np.float32) / 255),
        ("32.tiff", GREYS.astype(np.int32)),
    ],
)
def test_pictures_of_more_than_8_bits_keep_their_brightness(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    question = Question(id="1", text="?", choices=("a", "b"), answer=0, image=tmp_path / name)
    assert np.array_equal(np.asarray(question.load_image()), np.repeat(GREYS[..., None], 3, 2))


@pytest.mark.parametrize(
    ("values", "range_of"),
    [
        (GREYS.astype(np.int32) * 1000, "integers from 0 to 255000"),
        (GREYS.astype(np.float32), "floats from 0 to 255"),
        (-GREYS.astype(np.float32), "floats from -255 to -0"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
    ],
)
def test_pixels_whose_white_is_unknown_are_refused(tmp_path, values, range_of):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    question = Question(id="1", text="?", choices=("a", "b"), answer=0, image=tmp_path / "a.tiff")
    with pytest.raises(BadSampleError, match=f"its pixels are {range_of}; convert it to 8 bits"):
        question.load_image()
