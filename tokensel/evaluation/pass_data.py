"""What the steps of the one pass hand to each other: a batch as tensors, then its results; and where these go."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tokensel.data import Question
from tokensel.errors import BadSampleError
from tokensel.models.loaded import Encoded


class PredictionStore(Protocol):
    """Where predictions go: `tokensel.evaluation.store.PointStore`, or anything with these two methods."""

    def done_ids(self) -> set[str]: ...
    def append(self, rows: Iterable[dict[str, Any]]) -> None: ...


@dataclass(frozen=True)
class Group:
    """Questions with equally many visual tokens, as tensors. answer_ids: for scoring=letter, the token ids that begin
    each question's answers."""

    questions: list[Question]
    encoded: Encoded
    answer_ids: list[list[int]]


@dataclass(frozen=True)
class Prepared:
    """A batch as tensors, and its questions whose picture or prompt is bad."""

    groups: list[Group]
    bad: list[tuple[Question, BadSampleError]]


@dataclass
class Computed:
    """The results of a batch: (point, questions, their records), the points that failed, and the bad questions."""

    bad: list[tuple[Question, BadSampleError]]
    results: list[tuple[int, list[Question], list[dict[str, Any]]]] = field(default_factory=list)
    failures: dict[int, Exception] = field(default_factory=dict)
