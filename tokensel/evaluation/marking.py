"""How right an answer is: by the question's form, or by its benchmark's own rules."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokensel.data import LETTERS, NO_CHOICE, Question
from tokensel.data.question import Said
from tokensel.data.scorers import SCORERS
from tokensel.errors import BadSampleError

# From this share on, an answer that is scored in shares counts as right where only right and wrong are told apart.
_RIGHT = 0.5


def record_of(question: Question, answered: dict[str, Any]) -> dict[str, Any]:
    """A question's record in predictions.jsonl. answered: its prediction, margin, text and the like; see `mark`."""
    return _begin(question) | mark(question, answered)


def record_of_skipped(question: Question, error: BadSampleError) -> dict[str, Any]:
    """The record of a question that cannot be asked."""
    return _begin(question) | {"skipped": True, "prediction": None, "margin": None, "error": str(error)}


def _begin(question: Question) -> dict[str, Any]:
    answer = None if question.answer == NO_CHOICE else question.answer
    return {"id": question.id, "answer": answer, "correct": False, "skipped": False}


def mark(question: Question, answered: dict[str, Any]) -> dict[str, Any]:
    """Adds how right an answer is.

    answered: prediction, the choice's index or None; text, what was written; options, of form options, each one's mean
    negative log-likelihood and whether greedy decoding would write it. Adds:

    correct    whether it is right; where it is scored in shares, whether at least half
    score      its share, unless that is 0 or 1; None where the benchmark scores no single question
    scored     what the question's benchmark computes its figures from
    """
    if "turns" in answered:
        return _mark_turns(question, answered)
    if question.benchmark is not None:
        score, scored = question.benchmark.score(question, _said(question, answered))
        return (
            {name: value for name, value in answered.items() if name != "options"} | _shares(score) | {"scored": scored}
        )
    if question.form == "text":
        return answered | _shares(SCORERS[question.scorer](answered["text"], question.answers))
    answered.pop("options", None)
    return answered | {"correct": answered["prediction"] == question.answer}


def _mark_turns(question: Question, answered: dict[str, Any]) -> dict[str, Any]:
    """Marks each turn; the whole is right by the mean of their shares."""
    later = answered.pop("turns")
    turns = [mark(turn, said) for turn, said in zip((question, *question.turns), [answered, *later], strict=True)]
    shares = [share_of(each) or 0.0 for each in turns]
    return turns[0] | _shares(sum(shares) / len(shares)) | {"turns": turns}


def share_of(record: Mapping[str, Any]) -> float | None:
    """How right a stored answer is, from 0 to 1; None where it is not scored by itself."""
    score = record.get("score", record.get("correct", False))
    return None if score is None else float(score)


def _shares(score: float | None) -> dict[str, Any]:
    if score is None:
        return {"correct": False, "score": None}
    whole = score in (0, 1)
    return {"correct": score >= _RIGHT} | ({} if whole else {"score": round(score, 9)})


def _said(question: Question, answered: dict[str, Any]) -> Said:
    """What the benchmark reads: the options' likelihoods, the words written, or the choice, by letter or word."""
    if "options" in answered:
        return answered["options"]
    if "text" in answered:
        return answered["text"]
    if answered["prediction"] is None:
        return ""
    names = LETTERS if question.form == "choices" else question.choices
    return names[answered["prediction"]]


def benchmark_figures(records: Iterable[Mapping[str, Any]], questions: Sequence[Question]) -> dict[str, Any]:
    """The figures of the questions' own benchmark, from their stored records; {} if they have none, or several."""
    if len({question.benchmark.digest if question.benchmark else None for question in questions}) != 1:
        return {}
    benchmark = questions[0].benchmark
    if benchmark is None:
        return {}
    by_id = {question.id: question for question in questions}
    scored = {record["id"]: record["scored"] for record in records if not record.get("skipped")}
    return benchmark.figures([(question, scored[id]) for id, question in by_id.items() if id in scored])
