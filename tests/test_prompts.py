"""The prompt word for word, and LLaVA's reading of tricky answers."""

import pytest

from tokensel.data import Question
from tokensel.prompts import build_prompt, read_answer


def test_prompt_with_and_without_hint():
    fields = {"id": "q", "text": "Which is red?", "choices": ("left", "right"), "answer": 0, "image": None}
    plain = "Which is red?\nA. left\nB. right\nAnswer with the option's letter from the given choices directly."
    assert build_prompt(Question(**fields)) == plain
    assert build_prompt(Question(**fields, hint="Look.\nTwice.")) == f"Context: Look.\nTwice.\n{plain}"


@pytest.mark.parametrize(
    ("text", "n_choices", "read"),
    [
        ("B", 4, 1),
        (" B\n", 4, 1),
        ("B. right", 4, 1),
        ("The answer is B.", 4, 1),
        ("I see two. The answer is C. Sure.", 4, 2),
        ("E", 5, 4),
        ("G. seven", 7, 6),
        # a letter that the question does not have
        ("E", 4, None),
        ("E. none", 4, None),
        ("The answer is E.", 4, None),
        ("D. The answer is B.", 2, None),
        # letters beyond E are words unless the question has them
        ("I. The answer is B.", 2, 1),
        # two answers, or none
        ("The answer is A. The answer is B.", 4, None),
        ("The answer is B", 4, None),
        ("The answer is Blue.", 4, None),
        ("the answer is B.", 4, None),
        ("b", 4, None),
        ("B.", 4, None),
        ("B.right", 4, None),
        ("B) right", 4, None),
        ("(B)", 4, None),
        ("Because of A", 4, None),
        ("AB", 4, None),
        ("1", 4, None),
        ("", 4, None),
        (" ", 4, None),
    ],
)
def test_answers_are_read_as_llava_reads_them(text, n_choices, read):
    assert read_answer(text, n_choices) == read
