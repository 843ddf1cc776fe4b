"""How a written answer in free text is compared with the accepted ones.

A scorer takes what was written and the accepted answers, and returns the answer's share of being right, from 0 to 1.
White space around what was written never counts.
"""

from collections.abc import Callable, Mapping, Sequence
from string import punctuation

from tokensel.data.mmmu_answers import mmmu
from tokensel.data.vqa_answers import textvqa, vqa

Scorer = Callable[[str, Sequence[str]], float]

_NO_PUNCTUATION = str.maketrans("", "", punctuation)
# An edit distance of this share of the longer text, or more, scores 0.
_ANLS_THRESHOLD = 0.5
# The share by which a number may miss the right one.
_TOLERANCE = 0.05


def exact(written: str, answers: Sequence[str]) -> float:
    """1.0 if the text is an accepted answer, apart from case, surrounding white space and a final full stop."""
    said = written.strip().rstrip(".").casefold()
    return float(any(said == answer.strip().rstrip(".").casefold() for answer in answers))


def gqa(written: str, answers: Sequence[str]) -> float:
    """1.0 if the text is an accepted answer, apart from case and the punctuation marks of ASCII.

    Source: Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question
    Answering", CVPR 2019, https://arxiv.org/abs/1902.09506: answers are right if they are equal. lmms-eval's gqa
    ignores case and punctuation; LLaVA's convert_gqa_for_eval.py ignores case and a final full stop.
    """
    said = written.strip().lower().translate(_NO_PUNCTUATION)
    return float(any(said == answer.lower().translate(_NO_PUNCTUATION) for answer in answers))


def anls(written: str, answers: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the most similar accepted answer; 0.0 if that is below 0.5. Its average over
    questions is ANLS.

    Case and the amount of white space between words are ignored. The distance is divided by the length of the longer
    text, as the benchmark's script measures it: in capitals and with all its white space.

    Source: Biten et al., "Scene Text Visual Question Answering", ICCV 2019, https://arxiv.org/abs/1905.13648; the
    threshold is used as in the script of the Robust Reading Competition (DocVQA, InfographicVQA): a similarity of
    exactly 0.5 counts.
    """
    text = written.strip()
    best = 0.0
    for answer in answers:
        length = max(len(answer.upper()), len(text.upper()))
        distance = edit_distance(" ".join(answer.lower().split()), " ".join(text.lower().split()))
        best = max(best, 1 - distance / length if length else 1.0)
    return best if best >= _ANLS_THRESHOLD else 0.0


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance: how many characters to insert, delete or replace."""
    distances = list(range(len(second) + 1))  # of the part of `first` seen so far to each beginning of `second`
    for number, one in enumerate(first, start=1):
        diagonal, distances[0] = distances[0], number
        for column, other in enumerate(second, start=1):
            changed = diagonal + (one != other)
            diagonal = distances[column]
            distances[column] = min(changed, diagonal + 1, distances[column - 1] + 1)
    return distances[-1]


def relaxed(written: str, answers: Sequence[str]) -> float:
    """1.0 for a number within 5% of an accepted number, or for the same text in any case.

    "5%" is the number 0.05. Where the accepted number is 0, the texts are compared.

    Source: Masry et al., "ChartQA", ACL 2022 Findings, section 5.1, https://arxiv.org/abs/2203.10244; percentages and
    zero as in pix2struct's metrics.py, which Qwen-VL and lmms-eval follow.
    """
    text = written.strip()
    return float(any(_is_near(text, answer) for answer in answers))


def _is_near(text: str, answer: str) -> bool:
    number, right = _number(text), _number(answer)
    if number is None or not right:
        return text.lower() == answer.lower()
    return abs(number - right) / abs(right) <= _TOLERANCE


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


#: By name.
SCORERS: Mapping[str, Scorer] = {
    "exact": exact,
    "gqa": gqa,
    "vqa": vqa,
    "textvqa": textvqa,
    "anls": anls,
    "relaxed": relaxed,
    "mmmu": mmmu,
}
#: Scorers that compare with several people's answers, and the fewest with which an answer can be wholly right.
PEOPLE: Mapping[str, int] = {"vqa": 4, "textvqa": 4}
