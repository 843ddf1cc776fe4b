"""The figures of MME and POPE, whose questions are answered with yes or no.

An answer that is neither (prediction None) is always wrong. It is not a yes, so it affects neither precision nor the
yes-ratio; where yes is right it lowers recall. MME's own script, eval_tool/calculation.py, and lmms-eval also count it
as wrong. POPE's own, evaluate.py, has no such case: it takes every answer without "no" and "not" for a yes.

Questions skipped because of their picture are excluded.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokensel.data.question import YES_NO, Question
from tokensel.errors import TokenselError

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
MME_TASKS = (*PERCEPTION, *COGNITION)
POPE_CATEGORIES = ("random", "popular", "adversarial")

_YES = YES_NO.index("Yes")
#: A question and the prediction of its answer: an index into YES_NO, or None.
Answered = tuple[Question, int | None]


def yes_no_figures(predictions: Iterable[Mapping[str, Any]], questions: Sequence[Question]) -> dict[str, Any]:
    """The figures of stored predictions: MME's if every question belongs to one of its sub-tasks, else POPE's.

    Parameters:
        predictions: records with "id", "prediction" and "skipped"; those of other questions are ignored
        questions: all of form yes_no; if there are none, or of other forms, the result is {}
    """
    if not questions or any(question.form != "yes_no" for question in questions):
        return {}
    by_id = {question.id: question for question in questions}
    answered = [
        (by_id[record["id"]], record["prediction"])
        for record in predictions
        if record["id"] in by_id and not record.get("skipped")
    ]
    is_mme = all(question.category in MME_TASKS for question in questions)
    return mme_figures(answered) if is_mme else pope_figures(answered)


def pope_figures(answered: Sequence[Answered]) -> dict[str, Any]:
    """POPE's figures of all questions and, under "categories", of each category. Shares are from 0 to 1.

    accuracy; precision, recall and f1 of "yes"; yes_ratio, the share of the answers that are "yes"; n, the number of
    answers; unreadable, the number of answers that are neither. Precision is 0 if no answer is "yes", recall if none
    should be, f1 if both are 0. Without answers all shares are None.

    Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023,
    https://arxiv.org/abs/2305.10355
    """
    categories = _by_category(answered)
    return _detection(answered) | {"categories": {name: _detection(part) for name, part in categories.items()}}


def mme_figures(answered: Sequence[Answered]) -> dict[str, Any]:
    """MME's scores: perception (at most 2000), cognition (at most 800) and, under "categories", those of each sub-task.

    Per sub-task: accuracy, the share of right answers; pictures, the number of pictures with both questions answered;
    accuracy_plus, the share of these pictures with both answers right; score, 100 times the sum of the two shares (at
    most 200); n and unreadable. Perception and cognition are sums of their sub-tasks' scores; None if one has no score.

    Source: Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models", 2023,
    https://arxiv.org/abs/2306.13394
    """
    tasks = {name: _pairs(part) for name, part in _by_category(answered).items()}
    return {
        "n": len(answered),
        "unreadable": _unreadable(answered),
        "perception": _sum_of_scores(tasks, PERCEPTION),
        "cognition": _sum_of_scores(tasks, COGNITION),
        "categories": tasks,
    }


def read_label(label: Any, where: str) -> int:
    """The index into YES_NO of a data set's own "yes" or "no". Raises TokenselError, which begins with `where`,
    otherwise.
    """
    words = [choice.lower() for choice in YES_NO]
    word = str(label).strip().rstrip(".").lower()
    if word not in words:
        raise TokenselError(f"{where}: answer {label!r:.40} is neither yes nor no")
    return words.index(word)


def _by_category(answered: Sequence[Answered]) -> dict[str, list[Answered]]:
    """The answers by category: known categories in the benchmarks' order, then others in order of appearance."""
    parts: dict[str, list[Answered]] = defaultdict(list)
    for question, prediction in answered:
        parts[question.category].append((question, prediction))
    known = (*MME_TASKS, *POPE_CATEGORIES)
    return {name: parts[name] for name in sorted(parts, key=lambda n: known.index(n) if n in known else len(known))}


def _detection(answered: Sequence[Answered]) -> dict[str, Any]:
    n = len(answered)
    figures: dict[str, Any] = {"n": n, "unreadable": _unreadable(answered)}
    if not n:
        return figures | dict.fromkeys(("accuracy", "precision", "recall", "f1", "yes_ratio"))
    answered_yes = sum(prediction == _YES for _, prediction in answered)
    labelled_yes = sum(question.answer == _YES for question, _ in answered)
    hits = sum(prediction == question.answer == _YES for question, prediction in answered)
    precision, recall = hits / answered_yes if answered_yes else 0.0, hits / labelled_yes if labelled_yes else 0.0
    return figures | {
        "accuracy": _right(answered) / n,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes_ratio": answered_yes / n,
    }


def _pairs(answered: Sequence[Answered]) -> dict[str, Any]:
    counts = Counter(question.image_id for question, _ in answered)
    right = Counter(question.image_id for question, prediction in answered if prediction == question.answer)
    complete = [picture for picture, count in counts.items() if count == 2]
    accuracy = _right(answered) / len(answered)
    plus = sum(right[picture] == 2 for picture in complete) / len(complete) if complete else None
    return {
        "n": len(answered),
        "unreadable": _unreadable(answered),
        "accuracy": accuracy,
        "pictures": len(complete),
        "accuracy_plus": plus,
        "score": None if plus is None else 100 * (accuracy + plus),
    }


def _right(answered: Sequence[Answered]) -> int:
    return sum(prediction == question.answer for question, prediction in answered)


def _unreadable(answered: Sequence[Answered]) -> int:
    return sum(prediction is None for _, prediction in answered)


def _sum_of_scores(tasks: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> float | None:
    scores = [tasks[name]["score"] for name in names if name in tasks]
    return sum(scores) if len(scores) == len(names) and None not in scores else None
