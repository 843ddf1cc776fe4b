"""The prompt word for word, and three ways to read ambiguous answers."""

import pytest

from tokensel.data import Question
from tokensel.data.prompts import build_prompt, read_answer, read_yes_no


def test_prompt_with_and_without_hint():
    fields = {"id": "q", "text": "Which is red?", "choices": ("left", "right"), "answer": 0, "image": None}
    plain = "Which is red?\nA. left\nB. right\nAnswer with the option's letter from the given choices directly."
    assert build_prompt(Question(**fields)) == plain
    assert build_prompt(Question(**fields, hint="Look.\nTwice.")) == f"Context: Look.\nTwice.\n{plain}"


def test_prompt_of_a_yes_no_question_lists_no_choices():
    question = Question(
        id="q", text="Is there a dog?", choices=("Yes", "No"), answer=0, image=None, form="yes_no", category="existence"
    )
    assert build_prompt(question) == "Is there a dog?\nAnswer the question using a single word or phrase."


# written answer, number of choices; the choice as llava, lmms and exact read it
ANSWERS = [
    ("B", 4, 1, 1, 1),
    (" B\n", 4, 1, 1, 1),
    ("E", 5, 4, 4, 4),
    ("G", 7, 6, 6, 6),
    ("b", 4, None, 1, None),
    (" d ", 4, None, 3, None),
    ("B.", 4, None, 1, None),
    ("B. right", 4, 1, 1, None),
    ("B.right", 4, None, 1, None),
    ("B.\nright", 4, None, 1, None),
    ("b. right", 4, None, None, None),
    ("G. seven", 7, 6, 6, None),
    ("The answer is B.", 4, 1, None, None),
    ("I see two. The answer is C. Sure.", 4, 2, None, None),
    ("A. The answer is B.", 4, 0, 0, None),
    # a letter that the question does not have
    ("E", 4, None, None, None),
    ("e", 4, None, None, None),
    ("E. none", 4, None, None, None),
    ("The answer is E.", 4, None, None, None),
    ("D. The answer is B.", 2, None, None, None),
    # letters beyond E are words for llava unless the question has them; lmms takes any capital for the answer
    ("I. The answer is B.", 2, 1, None, None),
    ("Z. The answer is A.", 4, 0, None, None),
    # two answers, or none
    ("The answer is A. The answer is B.", 4, None, None, None),
    ("The answer is B", 4, None, None, None),
    ("The answer is Blue.", 4, None, None, None),
    ("the answer is B.", 4, None, None, None),
    ("B) right", 4, None, None, None),
    ("B, right", 4, None, None, None),
    ("(B)", 4, None, None, None),
    ("Because of A", 4, None, None, None),
    ("A or B", 4, None, None, None),
    ("AB", 4, None, None, None),
    ("1", 4, None, None, None),
    ("É. accent", 4, None, None, None),
    (".", 4, None, None, None),
    ("", 4, None, None, None),
    (" ", 4, None, None, None),
]


@pytest.mark.parametrize(("text", "n_choices", "llava", "lmms", "exact"), ANSWERS)
def test_each_reading_of_an_answer(text, n_choices, llava, lmms, exact):
    assert read_answer(text, n_choices) == llava
    assert read_answer(text, n_choices, "llava") == llava
    assert read_answer(text, n_choices, "lmms") == lmms
    assert read_answer(text, n_choices, "exact") == exact


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("NO.", "no"),
        (" yes, there is no dog", "yes"),
        ('"Yes"', "yes"),
        ("**No**, it is a cat.", "no"),
        ("_yes_", "yes"),
        ("No\nYes", "no"),
        ("Not really", None),
        ("Nothing", None),
        ("Yesterday", None),
        ("There is no dog", None),
        ("1 yes", None),
        ("...", None),
        ("", None),
    ],
)
def test_yes_or_no_is_the_first_word(text, word):
    assert read_yes_no(text) == word
