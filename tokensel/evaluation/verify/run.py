"""Runs the checks one after the other, and reports what they found as JSON can hold it."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from tokensel.data import Question, load_questions
from tokensel.evaluation.provenance import environment
from tokensel.evaluation.verify.answers import answer
from tokensel.evaluation.verify.batch_checks import check_batch, check_one_pass
from tokensel.evaluation.verify.outcome import Outcome
from tokensel.evaluation.verify.prompt_checks import (
    check_gathered,
    check_kept,
    check_no_op,
    check_order,
    check_pruned,
    check_unchanged,
)
from tokensel.evaluation.verify.subject import Subject
from tokensel.evaluation.verify.writing_checks import check_cache, check_written
from tokensel.models import LoadedModel

#: The checks by name, in the order in which they run.
CHECKS: dict[str, Callable[[Subject], Outcome]] = {
    "no-op": check_no_op,
    "pruned": check_pruned,
    "order": check_order,
    "gathered": check_gathered,
    "kept": check_kept,
    "written": check_written,
    "cache": check_cache,
    "batch": check_batch,
    "one pass": check_one_pass,
    "unchanged": check_unchanged,
}
QUESTIONS = 10
NEW_TOKENS = 8
# Questions that run as a batch.
_BATCH = 3


def verify(
    loaded: LoadedModel,
    kept: int | None = None,
    *,
    checks: Collection[str] = tuple(CHECKS),
    questions: Sequence[Question] | None = None,
    new_tokens: int = NEW_TOKENS,
    answered: int = QUESTIONS,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """What verify.json holds: model, device, dtype, versions, the checks with their figures, and the first answers.

    kept: visual tokens that remain; None: 64, or a quarter of a smaller picture's. checks: names of CHECKS. questions:
    with pictures, of which the first three run as a batch and should differ in length; None: ten bundled ones.
    new_tokens: how many are written where decoding is checked. answered: how many of the questions are answered, at
    most. progress: is told what runs now, and which share of all is done.

    A check that raises an error has failed. Raises TokenselError for a kept that the picture does not have.
    """
    began = time.monotonic()
    asked = bundled_questions(loaded) if questions is None else questions
    subject = Subject(loaded, asked[:_BATCH], kept, new_tokens)
    steps = len(checks) + len(asked[:answered])
    tell = progress or (lambda what, share: None)
    records, answers = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in (name for name in CHECKS if name in checks):
        tell(name, len(records) / steps)
        records.append(_guarded(subject, name))
    for question in asked[:answered]:
        tell(f"answer {len(answers) + 1}", (len(records) + len(answers)) / steps)
        answers.append(answer(subject, question))
    return {
        "passed": all(record["passed"] for record in records),
        **describe(subject),
        "checks": records,
        "answers": answers,
        "same_answers": sum(each["full"] == each["reduced"] for each in answers),
        "seconds": round(time.monotonic() - began, 1),
    }


def bundled_questions(loaded: LoadedModel) -> list[Question]:
    """Ten questions about drawn diagrams, those that may run as one batch first."""
    asked = load_questions("diagrams", limit=QUESTIONS)
    shapes = [loaded.shape_of(question, loaded.load_images(question)) for question in asked]
    return sorted(asked, key=lambda question: shapes[asked.index(question)] != shapes[0])


def _guarded(subject: Subject, name: str) -> dict[str, Any]:
    began = time.monotonic()
    try:
        outcome = CHECKS[name](subject)
    except Exception as error:  # whatever is broken, the other checks go on
        line = str(error).strip().partition("\n")[0]
        outcome = Outcome("could not run", problems=[f"{type(error).__name__}: {line}"])
    outcome.problems = [private(each, subject.loaded.path) for each in outcome.problems]
    return outcome.record(name) | {"seconds": round(time.monotonic() - began, 2)}


def describe(subject: Subject) -> dict[str, Any]:
    """The model, the prompt and the machine, without anything of the user's own folders."""
    loaded, config = subject.loaded, subject.model.config
    known = environment(loaded.device)
    return {
        "model": {
            "name": private(loaded.name, loaded.path),
            "revision": loaded.revision,
            "model_type": config.model_type,
            "layers": subject.depth,
            "dtype": str(subject.dtype).removeprefix("torch."),
            "attention": subject.parts.attention_name,
            "quantized": getattr(config, "quantization_config", None) is not None,
        },
        "prompt": {"tokens": subject.length, "visual_tokens": subject.count, "kept": subject.kept},
        "device": known["device"],
        "gpus": known["gpus"],
        "platform": known["platform"],
        "versions": known["versions"],
        "commit": known["commit"],
    }


def private(text: str, path: str) -> str:
    """The text, in which a checkpoint's folder is its name alone and the user's home is ~."""
    folder = Path(path).expanduser()
    if folder.is_absolute() and folder.name:
        text = text.replace(str(folder), folder.name)
    return text.replace(str(Path.home()), "~")
