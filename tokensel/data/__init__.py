"""Questions: what one is, and how a data set's name becomes a list of them.

    from tokensel.data import load_questions
    questions = load_questions("easy_vqa", limit=200)
    questions[0].text, questions[0].choices, questions[0].load_image()

A new data set is one file with a function that returns a list of `Question`, and one line in `DATASETS`.
"""

import hashlib
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tokensel.data.prompts import LETTERS
from tokensel.errors import BadSampleError, TokenselError

# "module:function"; a string, so that one data set's dependencies are imported only when it is asked for.
DATASETS: dict[str, str] = {
    "diagrams": "tokensel.data.diagrams:load_diagrams",
    "easy_vqa": "tokensel.data.easy_vqa:load_easy_vqa",
    "mme": "tokensel.data.mme:load_mme",
    "pope": "tokensel.data.pope:load_pope",
    "question_file": "tokensel.data.question_file:load_question_file",
    "scienceqa": "tokensel.data.scienceqa:load_scienceqa",
}

FORMS = ("choices", "yes_no")
YES_NO = ("Yes", "No")


@dataclass(frozen=True)
class Question:
    """One question about one picture, in ScienceQA's schema.

    answer      index into choices
    image       a PIL image, a path, or a callable without arguments that returns one; None: no picture
    image_id    equal for two questions exactly if they show the same picture: vision features are shared by
                it, and it is the cluster of clustered intervals. Left empty, the question's own id stands in.
    form        how it is worded and scored: choices (lettered), or yes_no (in one word; choices are YES_NO)
    category    what its figures are also told by: MME's sub-task; POPE's random, popular or adversarial

    Raises TokenselError if the answer is none of the choices, there are more choices than letters, the form is
    unknown, or a yes_no question has other choices.
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
            raise TokenselError(f"question {self.id}: form {self.form} is none of {', '.join(FORMS)}")
        if self.form == "yes_no" and tuple(self.choices) != YES_NO:
            raise TokenselError(f"question {self.id}: the choices of a yes_no question are {', '.join(YES_NO)}")
        if not 0 <= self.answer < len(self.choices):
            raise TokenselError(
                f"question {self.id}: answer {self.answer} is not an index of its {len(self.choices)} choices"
            )
        if len(self.choices) > len(LETTERS):
            raise TokenselError(
                f"question {self.id}: has {len(self.choices)} choices; there are letters for {len(LETTERS)}"
            )
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)

    def load_image(self) -> Image.Image:
        """The picture in RGB, decoded to the last row.

        Raises BadSampleError, which names the question, for a picture that is missing, truncated or none.
        """
        if self.image is None:
            raise BadSampleError(f"question {self.id}: has no picture", question_id=self.id)
        try:
            if isinstance(self.image, str | Path):
                with Image.open(self.image) as opened:
                    return _decoded(opened)
            return _decoded(self.image() if callable(self.image) else self.image)
        except FileNotFoundError as error:
            raise BadSampleError(
                f"question {self.id}: picture {error.filename or self.image} does not exist",
                question_id=self.id,
            ) from error
        except Exception as error:  # PIL's decoders raise nearly anything on a damaged file
            source = self.image if isinstance(self.image, str | Path) else "in memory"
            raise BadSampleError(
                f"question {self.id}: picture {source} cannot be read ({first_line(error)})",
                question_id=self.id,
            ) from error


def load_questions(name: str, limit: int | None = None, **options: object) -> list[Question]:
    """The questions of the data set `name`, in the data set's order.

    limit     at most so many of them: the first by `draw_order`. So the subset is the same in every run,
              mixes families whatever the order of the file, and a smaller limit is a part of a larger one.
    options   the data set's own; see its load function

    Raises TokenselError for an unknown name or option (lists the choices), a missing option, a limit below 1,
    a data set without questions, or two questions of one id.
    """
    loader = _loader(name)
    parameters = inspect.signature(loader).parameters
    for option in options:
        if option not in parameters:
            raise TokenselError(f"data.{option}: data={name} has no such option; it has {', '.join(parameters)}")
    for parameter in parameters.values():
        if parameter.default is parameter.empty and options.get(parameter.name) is None:
            raise TokenselError(f"data.{parameter.name}: data={name} needs this option")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise TokenselError(f"limit={limit}: must be a whole number from 1, or null for all questions")

    questions = loader(**options)
    if not questions:
        raise TokenselError(f"data={name}: holds no question with these options: {options}")
    twice = [id for id, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise TokenselError(f"data={name}: question id {twice[0]} occurs more than once; ids must be unique")
    if limit is None or limit >= len(questions):
        return questions
    chosen = {question.id for question in sorted(questions, key=draw_order)[:limit]}
    return [question for question in questions if question.id in chosen]


def draw_order(question: Question) -> tuple[str, str]:
    """Sorting by it is a fixed shuffle, of which a limit takes the first.

    Yes / no questions of one category about one picture are drawn together: MME scores them in pairs.
    """
    own = stable_hash(question.id)
    return (stable_hash(question.category, question.image_id), own) if question.form == "yes_no" else (own, "")


def stable_hash(*parts: str) -> str:
    """A digest of the parts, the same in every process, unlike `hash`: sorting by it is a fixed shuffle."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raises TokenselError, which lists what is allowed, unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise TokenselError(f"{key}={value}: unknown; choose one of {', '.join(allowed)}")


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _loader(name: str) -> Callable[..., list[Question]]:
    check_choice("data", name, DATASETS)
    module, function = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), function)


def _decoded(image: Image.Image) -> Image.Image:
    # PIL decodes lazily: without load(), a truncated file would fail far from here, in the image processor.
    image.load()
    return image.convert("RGB")
