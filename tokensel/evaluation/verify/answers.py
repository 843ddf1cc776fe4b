"""First answers, beside the unreduced model's."""

from typing import Any

import torch

from tokensel.data import LETTERS, Question
from tokensel.engine.reduce import reduce_tokens
from tokensel.evaluation.verify.subject import Subject

ANSWER_TOKENS = 8


@torch.no_grad()
def answer(subject: Subject, question: Question) -> dict[str, Any]:
    """What the model writes, with all visual tokens and with `kept` of them by fps.

    question: with lettered choices; correct is its letter.
    """
    given = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": ANSWER_TOKENS}
    inputs = subject.loaded.prepare([question])
    tokenizer = subject.loaded.processor.tokenizer

    def written() -> str:
        ids = subject.model.generate(**inputs, **given)[0, inputs["input_ids"].shape[1] :]
        return tokenizer.decode(ids, skip_special_tokens=True).strip()

    full = written()
    with reduce_tokens(subject.model, "fps", kept=subject.kept, row_keys=subject.keys([question])):
        reduced = written()
    return {
        "id": question.id,
        "question": question.text,
        "correct": LETTERS[question.answer],
        "full": full,
        "reduced": reduced,
    }
