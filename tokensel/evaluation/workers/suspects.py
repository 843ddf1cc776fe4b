"""Which question or which point kills the workers that answer a batch: each is tried alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# A batch whose workers died so often is suspect, and runs alone on its worker: another batch there may have killed it.
DEATHS = 3
# Deaths of a suspect's workers, tried alone, that are no chance any more.
TRIALS = 2


@dataclass
class Inquest:
    """Tries a batch's questions one by one, and then, if that tells nothing, its points.

    questions, points: ids and keys of the batch's task. died: what was tried, and whether its worker died.
    """

    questions: Sequence[str]
    points: Sequence[str]
    died: dict[str, bool] = field(default_factory=dict)
    deaths: int = 0

    def note(self, died: bool) -> None:
        """Notes the outcome of a trial. One that dies is tried again, as its worker may have died of something else."""
        assert self.trial is not None
        self.deaths = self.deaths + 1 if died else 0
        if not died or self.deaths == TRIALS:
            self.died[self.trial] = died
            self.deaths = 0

    @property
    def trial(self) -> str | None:
        """The question or the point to try next; None if the culprit is known, or cannot be found."""
        return next((each for each in self._candidates if each not in self.died), None)

    def restricted(self, lacking: dict[str, list[str]]) -> dict[str, list[str]]:
        """What a task lacks, of the question or the point that is tried."""
        tried = self.trial
        if tried in self.points:
            return {tried: lacking[tried]} if tried in lacking else {}
        return {key: [tried] for key, ids in lacking.items() if tried in ids}  # type: ignore[misc]

    @property
    def bad_questions(self) -> list[str]:
        """Once all is tried: the questions that kill whatever the point."""
        killers = self._killers(self.questions)
        every_point = len(self._killers(self.points)) == len(self.points)
        return killers if self._question_to_blame or every_point else []

    @property
    def bad_points(self) -> list[str]:
        """Once all is tried: the points that kill whatever the question."""
        return [] if self.bad_questions else self._killers(self.points)

    @property
    def _candidates(self) -> Sequence[str]:
        untried = any(each not in self.died for each in self.questions)
        return self.questions if untried or self._question_to_blame else [*self.questions, *self.points]

    @property
    def _question_to_blame(self) -> bool:
        """Whether some questions kill and others do not: then it is not the points."""
        return 0 < len(self._killers(self.questions)) < len(self.questions)

    def _killers(self, names: Sequence[str]) -> list[str]:
        return [each for each in names if self.died.get(each)]
