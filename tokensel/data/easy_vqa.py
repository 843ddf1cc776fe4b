"""easy-VQA as multiple choice: one coloured shape on a 64 x 64 picture, asked for colour, shape, or yes / no.

Source: Victor Zhou, "Easy Visual Question Answering", https://github.com/vzhou842/easy-VQA, MIT; pictures,
questions and answers come from its package, `pip install easy-vqa`.

Only its color and shape questions need the picture: "is there a red shape?" is mostly "no" and its negation
mostly "yes", so the wording alone answers 82% of the yes_no ones.
"""

from tokensel.data.order import stable_hash
from tokensel.data.question import Question
from tokensel.errors import TokenselError, check_choice

# The data set's own 13 answers (answers.txt), by kind: a distractor of another kind would give itself away.
ANSWERS: dict[str, tuple[str, ...]] = {
    "color": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
    "yes_no": ("yes", "no"),
}
MAX_CHOICES = 4
SPLITS = ("test", "train")


def load_easy_vqa(split: str = "test") -> list[Question]:
    """The questions of a split, in their order: 9673 in test, on 1000 pictures; 38575 in train, on 4000.

    The splits share no picture. Choices: the answer and up to 3 others of its kind; a hash of the id
    says which and in which order. Chance is 1/4 for color, 1/3 for shape, 1/2 for yes_no.

    Raises TokenselError for an unknown split, or without the easy-vqa package.
    """
    check_choice("data.split", split, SPLITS)
    try:
        import easy_vqa
    except ImportError as error:
        raise TokenselError("data=easy_vqa: needs the easy-vqa package: pip install easy-vqa") from error

    if split == "test":
        asked, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    else:
        asked, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    family_of = {answer: family for family, answers in ANSWERS.items() for answer in answers}
    questions = []
    for number, (text, answer, picture) in enumerate(zip(*asked, strict=True)):
        # Numbered per split, so that an id says which split and picture it belongs to.
        id = f"easy_vqa-{split}-{picture}-{number}"
        family = family_of[answer]
        choices = _choices(id, answer, ANSWERS[family])
        questions.append(
            Question(
                id=id,
                text=text,
                choices=choices,
                answer=choices.index(answer),
                # A picture lost from the package is that question's bad sample, not the end of the data set.
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
    offered = [answer, *others[: MAX_CHOICES - 1]]
    return tuple(sorted(offered, key=lambda choice: stable_hash(id, "order", choice)))
