"""The bundled diagrams: enough of them, balanced, drawn as labelled, and no two splits share one."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tokensel.data import load_questions
from tokensel.data.diagrams import DEFAULT_FAMILIES, FAMILIES, SPLITS, draw_diagram, load_diagrams
from tokensel.data.drawing import COLORS, GRID, KINDS, PALETTE, PATCH
from tokensel.errors import TokenselError
from tokensel.training.schedule import TrainingSchedule, pictures_of_step

EVERY = tuple(FAMILIES)


def test_there_are_at_least_2000_test_questions_in_the_schema_of_scienceqa():
    questions = load_diagrams(families=EVERY)
    assert len(questions) >= 2000
    assert len({q.id for q in questions}) == len(questions)
    for q in questions[::97]:
        assert q.text
        assert q.subject
        assert q.topic
        assert q.grade
        assert q.split == "test"
        assert len(set(q.choices)) == len(q.choices) >= 2


def test_the_right_letter_is_balanced_in_every_family_and_number_of_choices():
    questions = load_diagrams(families=EVERY)
    counts = Counter((q.family, len(q.choices), q.answer) for q in questions)
    totals = Counter((q.family, len(q.choices)) for q in questions)
    for (family, size, answer), count in counts.items():
        expected = totals[family, size] / size
        assert abs(count - expected) < 4 * expected**0.5, (family, size, answer)


@pytest.mark.parametrize("family", EVERY)
def test_the_answer_cannot_be_guessed_from_the_text(family):
    """The best guess from text, learned on half of the questions, is at chance on the other half."""
    questions = load_diagrams(families=[family], per_family=600)
    seen: dict[tuple, Counter] = {}
    for q in questions[:400]:
        seen.setdefault((q.text, q.hint, frozenset(q.choices)), Counter())[q.choices[q.answer]] += 1
    right, chance, variance = 0, 0.0, 0.0
    for q in questions[400:]:
        if known := seen.get((q.text, q.hint, frozenset(q.choices))):
            right += known.most_common(1)[0][0] == q.choices[q.answer]
            share = 1 / len(q.choices)
            chance, variance = chance + share, variance + share * (1 - share)
    assert variance > 0
    assert abs(right - chance) < 4 * variance**0.5


@pytest.mark.slow
def test_no_two_splits_share_a_picture():
    hashes = {}
    for split in SPLITS:
        hashes[split] = {
            draw_diagram(family, split, index).canvas.picture().tobytes() for family in EVERY for index in range(25)
        }
        assert len(hashes[split]) == 25 * len(EVERY)
    assert len(set.union(*hashes.values())) == 25 * len(EVERY) * len(SPLITS)


def test_validation_is_a_split_of_its_own_as_large_as_test():
    validation, test = load_questions("diagrams", split="validation"), load_questions("diagrams")
    assert len(validation) == len(test)
    assert {q.split for q in validation} == {"validation"}
    assert not {q.id for q in validation} & {q.id for q in test}
    same = [a.image().tobytes() == b.image().tobytes() for a, b in zip(validation[::350], test[::350], strict=True)]
    assert len(same) == len(DEFAULT_FAMILIES)
    assert not any(same)


@pytest.mark.parametrize("family", EVERY)
def test_questions_are_the_same_with_and_without_drawing(family):
    for index in range(10):
        assert draw_diagram(family, "test", index).items == draw_diagram(family, "test", index, inked=False).items


def test_a_question_draws_the_same_picture_every_time():
    first, again = (
        load_diagrams(families=["force"], per_family=1)[0],
        load_diagrams(families=["force"], per_family=1)[0],
    )
    picture = first.load_image()
    assert picture.size == (336, 336)
    assert picture.tobytes() == again.load_image().tobytes()


def test_color_questions_agree_with_the_pixels():
    """The pixels of the patches labelled as the question's shape have the answer's colour."""
    for index in range(30):
        diagram = draw_diagram("color", "test", index)
        pixels = np.asarray(diagram.canvas.picture(), dtype=int)
        labels = diagram.canvas.labels()
        for item in diagram.items:
            shape = next(word for word in item.text.strip("?").split() if word in KINDS)
            rows, columns = np.nonzero(labels.kind == KINDS.index(shape))
            middle = np.median(
                [pixels[r * PATCH + PATCH // 2, c * PATCH + PATCH // 2] for r, c in zip(rows, columns, strict=True)],
                0,
            )
            nearest = min(COLORS, key=lambda name: np.abs(np.array(PALETTE[name]) - middle).sum())
            assert nearest == item.choices[item.answer]


def _dots_left_and_right(picture: Image.Image, labels) -> tuple[int, int]:
    columns = np.nonzero(labels.center)[1]
    return int((columns < GRID // 2).sum()), int((columns >= GRID // 2).sum())


@pytest.mark.parametrize("family", ["concentration", "membrane"])
def test_counting_questions_agree_with_the_labelled_particles(family):
    for index in range(40):
        diagram = draw_diagram(family, "test", index)
        left, right = _dots_left_and_right(diagram.canvas.picture(), diagram.canvas.labels())
        item = diagram.items[0]
        if family == "membrane":
            expected = "to the right" if left > right else "to the left"
        else:
            expected = "Solution 1" if left > right else "Solution 2"
            if left == right:
                expected = "neither, they are the same"
        assert item.choices[item.answer] == expected


def test_limit_takes_a_mixed_and_nested_subset():
    some, more = load_questions("diagrams", limit=90), load_questions("diagrams", limit=180)
    assert {q.id for q in some} < {q.id for q in more}
    assert {q.family for q in some} == set(DEFAULT_FAMILIES)


def test_first_leaves_out_the_pictures_before_it():
    whole = load_diagrams("train", families=["force"], per_family=7)
    assert load_diagrams("train", families=["force"], per_family=4, first=3) == whole[3:]


def test_the_embedded_model_has_seen_no_train_picture_from_3000_on():
    schedule = TrainingSchedule()
    shown = [
        each.index
        for step in range(0, schedule.steps, 3)
        for each in pictures_of_step(step, schedule, [0])
        if each.family != "scene"
    ]
    assert 2000 < max(shown) < 3000


@pytest.mark.parametrize("options", [{"families": ["colour"]}, {"per_family": 0}, {"first": -1}])
def test_wrong_options_name_the_key_and_what_is_allowed(options):
    with pytest.raises(TokenselError, match=r"data\.(families=colour: unknown; choose one of|per_family=0|first=-1)"):
        load_diagrams(**options)
