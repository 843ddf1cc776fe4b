"""The consensus of ten people, by which VQAv2, TextVQA and VizWiz score a written answer.

An answer that at least three of ten people gave is right. What people wrote differs in trifles, so both sides are
normalised first: lower case, digits for number words, no articles, no punctuation, apostrophes in contractions.

Sources: Antol et al., "VQA: Visual Question Answering", ICCV 2015, https://arxiv.org/abs/1505.00468, and its script
vqaEval.py (https://github.com/GT-Vision-Lab/VQA); Singh et al., "Towards VQA Models That Can Read", CVPR 2019,
https://arxiv.org/abs/1904.08920, and the answer processor of its evaluation in MMF.
"""

import re
from collections.abc import Iterator, Sequence

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# Not before a digit: of 2.5. (Nor, by what the script seems to mean, after one; but "2." becomes "2" there too.)
_PERIOD = re.compile(r"\.(?!\d)")
# Written without one of its apostrophes, each of these is restored.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905


def vqa(written: str, answers: Sequence[str]) -> float:
    """VQA accuracy of a text, given the answers of ten people: 1.0 if three of them or more agree with it, less if
    fewer do, averaged over all choices of nine people.

    With the answers of n people, of whom m agree: (m min(1, (m - 1) / 3) + (n - m) min(1, m / 3)) / n.
    """
    return _consensus(_normalised(written), [_normalised(answer) for answer in answers])


def textvqa(written: str, answers: Sequence[str]) -> float:
    """As `vqa`, but commas, question marks and the place of 's are normalised before everything else: in words as
    "1,000" and "nike's" the two differ. TextVQA and VizWiz are scored so."""
    return _consensus(_normalised(_in_tokens(written)), [_normalised(_in_tokens(answer)) for answer in answers])


def _consensus(said: str, people: Sequence[str]) -> float:
    agree = people.count(said)
    others = len(people) - agree
    return (agree * min(1.0, (agree - 1) / 3) + others * min(1.0, agree / 3)) / len(people)


def _in_tokens(text: str) -> str:
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's")


def _normalised(text: str) -> str:
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space, or any mark where a number has a comma, is removed; else it becomes a space."""
    number, plain = _COMMA_IN_NUMBER.search(text), text
    for mark in _MARKS:
        plain = plain.replace(mark, "" if number or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", plain)


def _without_one_apostrophe() -> Iterator[tuple[str, str]]:
    yield "somebody'd", "somebodyd"  # so in the script, against the rule
    for whole in _CONTRACTED:
        for place, character in enumerate(whole):
            if character == "'":
                yield whole[:place] + whole[place + 1 :], whole


_CONTRACTIONS = dict(_without_one_apostrophe())
