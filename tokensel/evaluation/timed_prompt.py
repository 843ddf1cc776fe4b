"""What is timed: a question's prompt as the model takes it, and the runs of a point on it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokensel.data import Question
from tokensel.evaluation.answers import row_keys
from tokensel.models import LoadedModel


@dataclass(frozen=True)
class TimedPrompt:
    """A question as a batch of one. inputs: the model's keyword arguments. about: what methods get beside them."""

    inputs: dict[str, Any]
    about: dict[str, Any]

    @classmethod
    def of(cls, loaded: LoadedModel, question: Question) -> "TimedPrompt":
        """The question's prompt. Raises BadSampleError for a broken picture."""
        encoded = loaded.encode([question])
        about = {
            "row_keys": row_keys([question], loaded.device),
            "questions": [loaded.protocol.question_text(question)],
            "picture_sizes": encoded.picture_sizes,
        }
        return cls(loaded.arguments(encoded), about)


@dataclass
class Runs:
    """The timed runs of one point or of the full model.

    prefill   milliseconds of each run
    decode    milliseconds of each step, a list per run
    peak      largest peak memory of a run in bytes; None on a CPU
    """

    prefill: list[float] = field(default_factory=list)
    decode: list[list[float]] = field(default_factory=list)
    peak: int | None = None

    def add(self, run: tuple[float, list[float]], peak: int | None) -> None:
        """Adds a run: its prefill and its steps."""
        self.prefill.append(run[0])
        self.decode.append(run[1])
        if peak is not None:
            self.peak = max(self.peak or 0, peak)

    @property
    def total(self) -> np.ndarray:
        """Milliseconds of each run, all steps included."""
        return np.array(self.prefill) + np.array(self.decode).sum(1)
