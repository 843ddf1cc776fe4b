"""How MMMU reads and scores the written answer to one of its open questions.

Source: Yue et al., "MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for Expert AGI",
CVPR 2024, https://arxiv.org/abs/2311.16502, and its eval_utils.py (https://github.com/MMMU-Benchmark/MMMU).
"""

import re
from collections.abc import Iterator, Sequence

# The answer is looked for behind these words; in the last line behind "=", too.
_BEFORE_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NO_ANSWER = tuple(":,.!?;'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,000
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu(written: str, answers: Sequence[str]) -> float:
    """1.0 if an accepted answer is in what the text states: as a part of its words, or as one of its numbers, rounded
    to two decimals.

    The text states, of each line, the shortest part behind words such as "is" and "therefore"; without such words, all
    of it.
    """
    right = [form for answer in answers for form in _forms(answer)]
    return float(any(_is_in(form, stated) for stated in _stated(written) for form in right))


def _is_in(right: str | float, stated: str | float) -> bool:
    if isinstance(stated, str):
        return isinstance(right, str) and right in stated
    return stated == right


def _stated(written: str) -> Iterator[str | float]:
    """What the text states, and all numbers in it, normalised."""
    text = written.strip().strip(".").lower()
    *first, last = text.split("\n")
    parts = [*(_behind(line, _BEFORE_ANSWER) for line in first), _behind(last, (*_BEFORE_ANSWER, "="))]
    parts = [part for part in parts if part and part not in _NO_ANSWER] or [text]
    for part in parts:
        yield from _forms(part)
        for pattern in _NUMBERS:
            for number in pattern.findall(part):
                yield from _forms(number)


def _behind(line: str, words: Sequence[str]) -> str:
    """The shortest part of a line behind the last of one of the words; "" if none is in it."""
    shortest = ""
    for word in words:
        part = line.rpartition(word)[2].strip()
        if word in line and (not shortest or len(part) < len(shortest)):
            shortest = part
    return shortest


def _forms(text: str) -> list[str] | list[float]:
    """The text as a number, or in lower case; one character, with a space on either side: it must not be part of a
    word."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
