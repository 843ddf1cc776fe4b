"""What a question is: its text, choices, right answer and pictures or video."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from tokensel.data.picture import Picture, read_picture
from tokensel.data.scorers import SCORERS
from tokensel.data.video import FRAMES, Video
from tokensel.errors import BadSampleError, TokenselError, check_choice

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMS = ("choices", "yes_no", "text", "options")
YES_NO = ("Yes", "No")
#: The answer of a question whose answer is no choice of its own.
NO_CHOICE = -1

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
    """One question about a picture or a video, with the fields of ScienceQA.

    Parameters:
        answer: index into choices; NO_CHOICE of form text, and where a benchmark knows the answer
        image: a PIL image, a path, or a function without arguments that returns an image; a sequence of these for
            several pictures; None: no picture
        image_id: equal for two questions if and only if they show the same pictures or the same video. Such questions
            share vision features, and form one cluster in clustered confidence intervals. If empty, the question's own
            id is used
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
        video: shown instead of pictures; image is None
        frames: how many frames of the video are shown, at most; see `tokensel.data.video.uniform_indices`

    Pictures stand before the text, in their order; with as many "<image>" in the text as there are pictures, at these.

    Raises TokenselError for an answer that is not an index of choices, more choices than letters, an unknown form or
    scorer, a yes_no question with other choices, free text without accepted answers, a video beside pictures or without
    frames, or turns with pictures or a video.
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
    video: Video | None = None
    frames: int = FRAMES

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
        if any(turn.is_visual or turn.turns for turn in self.turns):
            raise TokenselError(f"{where}: its later turns must have no pictures, no video and no turns of their own")
        if self.video and self.pictures:
            raise TokenselError(f"{where}: has a video and {len(self.pictures)} picture(s); give one of the two")
        if self.frames < 1:
            raise TokenselError(f"{where}: frames={self.frames}: must be 1 or more")
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
    def is_visual(self) -> bool:
        """Whether it shows anything: pictures or a video."""
        return self.video is not None or bool(self.pictures)

    @property
    def picture_ids(self) -> tuple[str, ...]:
        """For each picture, what equal pictures of other questions have too.

        Of a video one id, which the same frames of the same video share.
        """
        if self.video:
            return (f"{self.image_id}#{self.frames} frames",)
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

    def load_frames(self) -> list[Image.Image]:
        """The chosen frames of its video in RGB, see `Video.load_frames`; none without a video.

        Raises BadSampleError, which names the question, for a video that is missing or broken; TokenselError if it is a
        file and no decoder is installed.
        """
        with self._named_errors():
            return self.video.load_frames(self.frames) if self.video else []

    def _load(self, picture: Picture) -> Image.Image:
        with self._named_errors():
            return read_picture(picture)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except BadSampleError as error:
            raise BadSampleError(f"question {self.id}: {error}", question_id=self.id) from error.__cause__
