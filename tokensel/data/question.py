"""What a question is: its text, choices, right answer and pictures."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tokensel.data.scorers import SCORERS
from tokensel.errors import BadSampleError, TokenselError, check_choice, first_line

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMS = ("choices", "yes_no", "text", "options")
YES_NO = ("Yes", "No")
#: The answer of a question whose answer is no choice of its own.
NO_CHOICE = -1

Picture = Image.Image | str | Path | Callable[[], Image.Image]
#: What a model said: its words; or of form options, each option's mean negative log-likelihood per token, and whether
#: greedy decoding would write it.
Said = str | Sequence[tuple[float, bool]]


class Benchmark(Protocol):
    """A benchmark that scores answers by its own rules.

    digest: of everything that decides its scores, for keys.
    """

    @property
    def digest(self) -> str: ...

    def score(self, question: "Question", said: Said) -> tuple[float | None, Any]:
        """The answer's share of being right, from 0 to 1, None where the benchmark knows none for a single question;
        and what the benchmark computes its figures from, which can be written as JSON."""
        ...

    def figures(self, scored: Sequence[tuple["Question", Any]]) -> dict[str, Any]:
        """The benchmark's figures of questions with what `score` returned second."""
        ...


@dataclass(frozen=True)
class Question:
    """One question about a picture, with the fields of ScienceQA.

    Parameters:
        answer: index into choices; NO_CHOICE of form text, and where a benchmark knows the answer
        image: a PIL image, a path, or a function without arguments that returns an image; a sequence of these for
            several pictures; None: no picture
        image_id: equal for two questions if and only if they show the same pictures. Such questions share vision
            features, and form one cluster in clustered confidence intervals. If empty, the question's own id is used
        family: kind of question within its data set
        form: how it is worded and scored. choices: lettered; yes_no: one word, choices are YES_NO; text: free text;
            options: the likeliest of the choices, as continuations of the prompt
        category: a group with figures of its own: MME's sub-task; POPE's random, popular or adversarial
        answers: of form text: the accepted answers, which `scorer` compares with what was written; one may stand for
            several people's equal answers
        scorer: a name in `tokensel.data.scorers.SCORERS`
        instruction: how to answer, on a line of its own behind the question; None: the protocol's for this form. With
            another, the text's own white space stays as it is
        max_new_tokens: of a written answer; None: `tokensel.evaluation.answers.ANSWER_TOKENS`
        until: texts that end a written answer, and are not part of it
        turns: later questions of the same conversation, without pictures
        benchmark: scores the answer instead of the form's own rule
        group: questions of one group are scored together; a limit keeps them together

    Pictures stand before the text, in their order; with as many "<image>" in the text as there are pictures, at these.

    Raises TokenselError for an answer that is not an index of choices, more choices than letters, an unknown form or
    scorer, a yes_no question with other choices, free text without accepted answers, or turns with pictures.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int
    image: Picture | Sequence[Picture] | None
    image_id: str = ""
    hint: str = ""
    subject: str = ""
    topic: str = ""
    grade: str = ""
    split: str = "test"
    family: str = ""
    form: str = "choices"
    category: str = ""
    answers: tuple[str, ...] = ()
    scorer: str = "exact"
    instruction: str | None = None
    max_new_tokens: int | None = None
    until: tuple[str, ...] = ()
    turns: "tuple[Question, ...]" = ()
    benchmark: Benchmark | None = None
    group: str = ""

    def __post_init__(self) -> None:
        where = f"question {self.id}"
        if self.form not in FORMS:
            raise TokenselError(f"{where}: form={self.form} is unknown; choose one of {', '.join(FORMS)}")
        check_choice(f"{where}: scorer", self.scorer, SCORERS)
        if self.form == "yes_no" and tuple(self.choices) != YES_NO:
            raise TokenselError(f"{where}: the choices of a yes_no question must be {', '.join(YES_NO)}")
        if self.form == "text":
            if self.choices or self.answer != NO_CHOICE:
                raise TokenselError(f"{where}: a question of form text has no choices, and answer={NO_CHOICE}")
            if not self.answers and self.benchmark is None:
                raise TokenselError(f"{where}: has no accepted answer")
        elif not (0 <= self.answer < len(self.choices) or (self.benchmark and self.answer == NO_CHOICE)):
            raise TokenselError(f"{where}: answer {self.answer} is not an index of its {len(self.choices)} choices")
        if self.form == "choices" and len(self.choices) > len(LETTERS):
            raise TokenselError(f"{where}: has {len(self.choices)} choices; at most {len(LETTERS)} are allowed")
        if any(turn.pictures or turn.turns for turn in self.turns):
            raise TokenselError(f"{where}: its later turns must have no pictures and no turns of their own")
        pictures = self.pictures
        if len(pictures) < 2:  # one picture of a list is like one alone
            object.__setattr__(self, "image", pictures[0] if pictures else None)
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures, in their order."""
        if self.image is None:
            return ()
        return (
            tuple(self.image) if isinstance(self.image, Sequence) and not isinstance(self.image, str) else (self.image,)
        )

    @property
    def picture_ids(self) -> tuple[str, ...]:
        """For each picture, what equal pictures of other questions have too."""
        count = len(self.pictures)
        return (self.image_id,) * count if count < 2 else tuple(f"{self.image_id}#{k}" for k in range(count))

    @property
    def is_written(self) -> bool:
        """Whether its answer is always written, whatever the scoring."""
        return self.form == "text" or bool(self.turns)

    def load_images(self) -> list[Image.Image]:
        """Its pictures in RGB, fully decoded; raises as `load_image`."""
        return [self._load(picture) for picture in self.pictures]

    def load_image(self) -> Image.Image:
        """The first picture in RGB, fully decoded.

        Raises BadSampleError, which names the question, for a picture that is missing, truncated or not a picture.
        """
        if not self.pictures:
            raise BadSampleError(f"question {self.id}: has no picture", question_id=self.id)
        return self._load(self.pictures[0])

    def _load(self, picture: Picture) -> Image.Image:
        try:
            if isinstance(picture, str | Path):
                if os.path.exists(picture) and not os.path.isfile(picture):
                    raise ValueError("is not a file")  # a pipe would be read for ever
                with Image.open(picture) as opened:
                    return _decoded(opened)
            return _decoded(picture() if callable(picture) else picture)
        except FileNotFoundError as error:
            raise BadSampleError(
                f"question {self.id}: picture {error.filename or picture} does not exist", question_id=self.id
            ) from error
        except Exception as error:  # PIL's decoders raise errors of many classes for damaged files
            source = picture if isinstance(picture, str | Path) else "in memory"
            raise BadSampleError(
                f"question {self.id}: picture {source} cannot be read ({first_line(error)})", question_id=self.id
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
