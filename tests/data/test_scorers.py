"""Scorers of free text: by hand, by slow counts, and equal to lmms-eval's but for what docs/data.md lists."""

import random
from functools import cache
from itertools import combinations

import pytest
from helpers.lmms_eval import definitions
from hypothesis import given
from hypothesis import strategies as st

from tokensel.data.mmmu_answers import mmmu
from tokensel.data.scorers import SCORERS, anls, edit_distance, exact, gqa, relaxed
from tokensel.data.vqa_answers import _CONTRACTIONS, textvqa, vqa

# Words, numbers, marks and white space of which answers are made.
PIECES = """
a An the A cat cats Two two TEN none 10 0 0% 5% 5.0 0.05 .5 2.5 2. 1,000 1000 1,234,567 -3 1e3 1.5E-3 3:30 nan inf
dont don't Couldntve couldn'tve Im shes she's ow's'at 'ows'at somebody'd somebodyd yall'dve weve nike's Nike it's its
t-shirt t shirt tshirt u.s.a. U.S.A and/or (left) [x] {y} "red" red. red, red ? ! ; _ `k` < > @ = + \\ / % & : #
é É straße STRASSE İ ½ 日本 犬。 x y is so answer therefore could be final result thus
""".split()  # noqa: SIM905
GAPS = ["", " ", " ", " ", "  ", "\n", "\t", ". ", ", "]


def text(draw: random.Random, most: int = 4) -> str:
    pieces = [draw.choice(PIECES) + draw.choice(GAPS) for _ in range(draw.randrange(most + 1))]
    return "".join(pieces)


def changed(draw: random.Random, said: str) -> str:
    """Another way to write it, or nearly the same."""
    ways = (str.upper, str.lower, str.strip, lambda s: f"the {s}", lambda s: s + ".", lambda s: s.replace(" ", ""))
    return draw.choice([*ways, lambda s: s[:-1], lambda s: s + draw.choice("sx "), lambda s: s, lambda s: s])(said)


def cases(seed: int, people: int = 10) -> list[tuple[str, list[str]]]:
    """200 answers, each with the accepted ones; in a third of them, all agree or nearly."""
    draw = random.Random(seed)
    found = []
    for _ in range(200):
        said = text(draw)
        near = draw.random()
        found.append((said, [changed(draw, said) if draw.random() < near else text(draw) for _ in range(people)]))
    return found


@cache
def judge(name: str):
    """lmms-eval's own score of (written, answers), computed by its task as the harness calls it."""
    if name in ("vqa", "textvqa"):
        processor = definitions("tasks/_task_utils/vqa_eval_metric.py")["EvalAIAnswerProcessor"]
        file = {"vqa": "tasks/vqav2/utils.py", "textvqa": "tasks/textvqa/utils.py"}[name]
        score = definitions(file, EvalAIAnswerProcessor=processor)[
            {"vqa": "vqav2_process_results", "textvqa": "textvqa_process_results"}[name]
        ]

        def consensus(written, answers):
            people = answers if name == "textvqa" else [{"id": n, "answer": a} for n, a in enumerate(answers)]
            return score({"question_id": 1, "answers": list(people)}, [written.strip()])["exact_match"]

        return consensus
    if name == "relaxed":
        one = definitions("tasks/chartqa/utils.py")["relaxed_correctness"]
        return lambda written, answers: one(written.strip(), answers[0])
    if name == "mmmu":
        task = definitions("tasks/mmmu/utils.py")
        return lambda written, answers: task["eval_open"](answers, task["parse_open_response"](written))
    metrics = definitions("api/metrics.py")
    if name == "anls":
        return lambda written, answers: metrics["anls"](references=answers, predictions=[written.strip()])["anls"]
    options = {"ignore_case": True, "ignore_punctuation": True}
    return lambda written, answers: metrics["exact_match_fn"](
        references=[answers[0]], predictions=[written.strip()], **options
    )["exact_match"]


@pytest.mark.parametrize(("name", "people"), [("gqa", 1), ("vqa", 10), ("textvqa", 10), ("anls", 3), ("relaxed", 1)])
def test_a_scorer_equals_lmms_evals_on_200_answers(name, people):
    scored = [(written, answers, SCORERS[name](written, answers)) for written, answers in cases(7, people)]
    for written, answers, share in scored:
        assert share == pytest.approx(float(judge(name)(written, answers)), abs=1e-12), (written, answers)
    shares = [share for *_, share in scored]
    assert 30 < sum(share > 0 for share in shares) < 190
    if name not in ("gqa", "relaxed"):
        assert sum(0 < share < 1 for share in shares) > 20


def test_mmmus_scorer_equals_lmms_evals_on_200_answers():
    draw = random.Random(3)
    shares = []
    for _ in range(200):
        written = text(draw, 7)
        pieces = [draw.choice(written.split() or [""]) if draw.random() < 0.5 else draw.choice(PIECES) for _ in "ab"]
        shares.append(mmmu(written, pieces))
        assert shares[-1] == float(judge("mmmu")(written, pieces)), (written, pieces)
    assert 30 < sum(shares) < 170


def test_the_contractions_are_those_of_the_script():
    table = definitions("tasks/_task_utils/vqa_eval_metric.py")["EvalAIAnswerProcessor"].CONTRACTIONS
    # Words are in lower case when they are looked up, so that "Im" never is; some entries restore what they are.
    used = {word: whole for word, whole in table.items() if word == word.lower() and word != whole}
    assert used == _CONTRACTIONS


@pytest.mark.parametrize(
    ("name", "written", "answer", "ours", "theirs"),
    [
        ("vqa", "1,,2", "1 2", 1.0, 0.0),  # the script looks for one comma between digits, lmms-eval for one or more
        ("vqa", "1,,2", "12", 0.0, 1.0),
        ("relaxed", "0", "0.0", 0.0, 0.0),  # the same text, as there is no 5% of 0
    ],
)
def test_differences_and_what_looks_like_one(name, written, answer, ours, theirs):
    assert SCORERS[name](written, [answer] * 10) == ours
    assert float(judge(name)(written, [answer] * 10)) == theirs


# By hand

YES = ["yes"] * 7 + ["no"] * 3


@pytest.mark.parametrize(
    ("written", "answers", "share"),
    [
        ("yes", YES, 1.0),
        ("Yes.", YES, 1.0),
        ("no", YES, (3 * 2 / 3 + 7) / 10),
        ("maybe", YES, 0.0),
        ("two", ["2"] * 2 + ["3"] * 8, (2 / 3 + 8 * 2 / 3) / 10),
        ("The cat", ["cat"] * 4, 1.0),
        ("dont", ["don't"] * 10, 1.0),
        ("1,000", ["1000"] * 10, 1.0),
        ("1000", ["1,000"] * 10, 1.0),
        ("left-hand side", ["left hand side"] * 10, 1.0),
        ("", YES, 0.0),
        ("", ["the"] * 10, 1.0),
        ("cat", ["cat"], 0.0),
        ("cat", ["cat"] * 3, 2 / 3),
    ],
)
def test_consensus_by_hand(written, answers, share):
    assert vqa(written, answers) == pytest.approx(share)
    assert textvqa(written, answers) == pytest.approx(share)


@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=10), st.sampled_from("abc"))
def test_consensus_averages_over_all_choices_of_all_but_one(answers, said):
    left = list(combinations(range(len(answers)), len(answers) - 1))
    shares = [min(1, sum(answers[n] == said for n in chosen) / 3) for chosen in left]
    if said == "a":  # an article, and so nothing: as every other "a"
        assert vqa("a", answers) == vqa("", answers)
    assert vqa(said, answers) == pytest.approx(sum(shares) / len(shares))


def slow_distance(first: str, second: str) -> int:
    if not first or not second:
        return len(first) + len(second)
    return min(
        slow_distance(first[1:], second[1:]) + (first[0] != second[0]),
        slow_distance(first[1:], second) + 1,
        slow_distance(first, second[1:]) + 1,
    )


@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_edit_distance_equals_the_recursion(first, second):
    assert edit_distance(first, second) == slow_distance(first, second) == edit_distance(second, first)


@pytest.mark.parametrize(
    ("scorer", "written", "answers", "share"),
    [
        (exact, " Red. ", ["blue", "red"], 1.0),
        (exact, "red!", ["red"], 0.0),
        (gqa, "T-Shirt.", ["tshirt"], 1.0),
        (gqa, "shirt", ["t-shirt"], 0.0),
        (anls, "kitten", ["sitting", "KITTENS"], 1 - 1 / 7),
        (anls, "ab", ["ax"], 0.5),
        (anls, "ab", ["xy z"], 0.0),
        (anls, "", [""], 1.0),
        (relaxed, "105", ["100"], 1.0),
        (relaxed, "105.1", ["100"], 0.0),
        (relaxed, "-95", ["-100"], 1.0),
        (relaxed, "52%", ["0.5"], 1.0),
        (relaxed, "52%", ["50"], 0.0),
        (relaxed, " 5 ", ["5"], 1.0),
        (relaxed, "Dark Blue", ["dark blue"], 1.0),
        (relaxed, "2010", ["2000"], 1.0),
        (mmmu, "So the answer is 24/7.", ["24/7", "3.43"], 1.0),
        (mmmu, "x = 12/3.5 = 3.4286", ["24/7", "3.43"], 1.0),
        (mmmu, "x = 3.44", ["24/7", "3.43"], 0.0),
        (mmmu, "It costs 1,000 dollars", ["1000"], 1.0),
        (mmmu, "calm", ["c"], 0.0),
        (mmmu, "vitamin c is it", ["c"], 0.0),
        (mmmu, "vitamin c", ["c"], 1.0),
    ],
)
def test_scorers_by_hand(scorer, written, answers, share):
    assert scorer(written, answers) == pytest.approx(share)
