"""A task's generation_kwargs give one limit and one list of endings, or a line that says what is not supported."""

import pytest

from tokensel.data.lmms.generation import DEFAULT_NEW_TOKENS, writing_rule
from tokensel.errors import TokenselError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (DEFAULT_NEW_TOKENS, ())),
        ({"until": None, "do_sample": False}, (DEFAULT_NEW_TOKENS, ())),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["\n\n"]}, (16, ("\n\n",))),
        ({"max_new_tokens": "16", "until": "ASSISTANT:"}, (16, ("ASSISTANT:",))),
        ({"max_new_tokens": 8.0, "until": ["", "b", "a"]}, (8, ("b", "a"))),
        ({"do_sample": False, "temperature": 0.2, "num_beams": None}, (DEFAULT_NEW_TOKENS, ())),
        ({"do_sample": True, "temperature": 0}, (DEFAULT_NEW_TOKENS, ())),
    ],
)
def test_the_limit_and_the_endings_are_read(given, expected):
    assert writing_rule(given) == expected


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"do_sample": True, "temperature": 0.7}, "do_sample=true temperature=0.7 asks for sampled answers"),
        ({"temperature": 1}, "temperature=1 asks for sampled answers"),
        ({"num_beams": 5}, "num_beams=5 is not supported; only 1 is"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is not supported; only 1 is"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be a whole number, at least 1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5: must be a whole number, at least 1"),
        ({"max_new_tokens": float("inf")}, "max_new_tokens=inf: must be a whole number, at least 1"),
        ({"temperature": "warm"}, "temperature=warm: must be a number"),
        ({"until": [3]}, r"until=\[3\]: must be a text or a list of texts"),
        ({"until": 3}, "until=3: must be a text or a list of texts"),
    ],
)
def test_what_greedy_decoding_cannot_obey_is_refused(given, line):
    with pytest.raises(TokenselError, match=f"^generation_kwargs: {line}") as error:
        writing_rule(given)
    assert "\n" not in str(error.value)
