"""easy-VQA as multiple choice: pictures of 64 x 64 with one coloured shape; questions for colour, shape, and yes / no.

Pictures, questions and answers come from the package of that name, `pip install easy-vqa`.

Only the color and shape questions need the picture. "Is there a red shape?" is mostly answered "no" and its negation
mostly "yes", so the wording alone answers 82% of the yes_no questions.

Source: Victor Zhou, "Easy Visual Question Answering", https://github.com/vzhou842/easy-VQA, MIT licence.
"""

from tokensel.data.order import stable_hash
from tokensel.data.question import Question
from tokensel.errors import TokenselError, check_choice

# The data set's 13 answers (answers.txt) by kind: a distractor of another kind could be excluded without the picture.
ANSWERS: dict[str, tuple[str, ...]] = {
    "color": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
    "yes_no": ("yes", "no"),
}
MAX_CHOICES = 4
SPLITS = ("test", "train")


def load_easy_vqa(split: str = "test") -> list[Question]:
    """The questions of a split, in their order: test has 9673 about 1000 pictures, train 38575 about 4000.

    The splits share no picture. The choices are the answer and up to 3 others of its kind; a hash of the id determines
    which ones and their order. Chance is 1/4 for color, 1/3 for shape, 1/2 for yes_no.

    Raises TokenselError for an unknown split, or if the easy-vqa package is missing.
    """
    check_choice("data.split", split, SPLITS)
    try:
        import easy_vqa
    except ImportError as error:
        raise TokenselError("data=easy_vqa: needs the easy-vqa package: pip install easy-vqa") from error

    if split == "test":
        entries, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    else:
        entries, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    family_of = {answer: family for family, answers in ANSWERS.items() for answer in answers}
    questions = []
    for number, (text, answer, picture) in enumerate(zip(*entries, strict=True)):
        # Numbered per split; the id states the split and the picture.
        id = f"easy_vqa-{split}-{picture}-{number}"
        family = family_of[answer]
        choices = _choices(id, answer, ANSWERS[family])
        questions.append(
            Question(
                id=id,
                text=text,
                choices=choices,
                answer=choices.index(answer),
                # A picture missing from the package makes its questions bad samples; the others remain usable.
                image=paths.get(picture, f"{picture}.png"),
                image_id=f"easy_vqa-{split}-{picture}",
                subject="easy-VQA",
                topic=family,
                split=split,
                family=family,
            )
        )
    return questions


def _choices(id: str, answer: str, kind: tuple[str, ...]) -> tuple[str, ...]:
    others = sorted(
        (other for other in kind if other != answer), key=lambda other: stable_hash(id, "distractor", other)
    )
    choices = [answer, *others[: MAX_CHOICES - 1]]
    return tuple(sorted(choices, key=lambda choice: stable_hash(id, "order", choice)))
