"""What a question is: its text, choices, right answer and picture."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tokensel.errors import BadSampleError, TokenselError, first_line

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMS = ("choices", "yes_no")
YES_NO = ("Yes", "No")


@dataclass(frozen=True)
class Question:
    """One question about one picture, with the fields of ScienceQA.

    Parameters:
        answer: index into choices
        image: a PIL image, a path, or a function without arguments that returns an image; None: no picture
        image_id: equal for two questions if and only if they show the same picture. Such questions share vision
            features, and form one cluster in clustered confidence intervals. If empty, the question's own id is used
        family: kind of question within its data set
        form: how it is worded and scored: choices (lettered), or yes_no (one word; choices are YES_NO)
        category: a group with figures of its own: MME's sub-task; POPE's random, popular or adversarial

    Raises TokenselError for an answer that is not an index of choices, more choices than letters, an unknown form, or a
    yes_no question with other choices.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int
    image: Image.Image | str | Path | Callable[[], Image.Image] | None
    image_id: str = ""
    hint: str = ""
    subject: str = ""
    topic: str = ""
    grade: str = ""
    split: str = "test"
    family: str = ""
    form: str = "choices"
    category: str = ""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise TokenselError(f"question {self.id}: form={self.form} is unknown; choose one of {', '.join(FORMS)}")
        if self.form == "yes_no" and tuple(self.choices) != YES_NO:
            raise TokenselError(f"question {self.id}: the choices of a yes_no question must be {', '.join(YES_NO)}")
        if not 0 <= self.answer < len(self.choices):
            raise TokenselError(
                f"question {self.id}: answer {self.answer} is not an index of its {len(self.choices)} choices"
            )
        if len(self.choices) > len(LETTERS):
            raise TokenselError(
                f"question {self.id}: has {len(self.choices)} choices; at most {len(LETTERS)} are allowed"
            )
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)

    def load_image(self) -> Image.Image:
        """The picture in RGB, fully decoded.

        Raises BadSampleError, which names the question, for a picture that is missing, truncated or not a picture.
        """
        if self.image is None:
            raise BadSampleError(f"question {self.id}: has no picture", question_id=self.id)
        try:
            if isinstance(self.image, str | Path):
                if os.path.exists(self.image) and not os.path.isfile(self.image):
                    raise ValueError("is not a file")  # a pipe would be read for ever
                with Image.open(self.image) as opened:
                    return _decoded(opened)
            return _decoded(self.image() if callable(self.image) else self.image)
        except FileNotFoundError as error:
            raise BadSampleError(
                f"question {self.id}: picture {error.filename or self.image} does not exist",
                question_id=self.id,
            ) from error
        except Exception as error:  # PIL's decoders raise errors of many classes for damaged files
            source = self.image if isinstance(self.image, str | Path) else "in memory"
            raise BadSampleError(
                f"question {self.id}: picture {source} cannot be read ({first_line(error)})",
                question_id=self.id,
            ) from error


def _decoded(image: Image.Image) -> Image.Image:
    # PIL decodes lazily: without load(), a truncated file would fail later, in the image processor.
    image.load()
    return _in_8_bits(image).convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The picture, with 16-bit grey values and floats from 0 to 1 scaled to 0 .. 255: PIL would make them white or
    black.

    Raises ValueError for other values of more than 8 bits.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, dtype=np.float64)
    least, largest = values.min(), values.max()
    # Older releases of PIL open PNGs of 16 bits in mode I, which is of 32 bits.
    full = 1.0 if image.mode == "F" else 255.0 if image.mode == "I" and image.format != "PNG" else 65535.0
    if not (least >= 0 and largest <= full):
        kind = "floats" if image.mode == "F" else "integers"
        raise ValueError(f"its pixels are {kind} from {least:g} to {largest:g}; convert it to 8 bits")
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))
