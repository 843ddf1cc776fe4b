"""lmms-eval's requests as questions: the same ones that a sweep over the same task asks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tokensel.data import NO_CHOICE, Question
from tokensel.data.lmms.generation import writing_rule
from tokensel.data.question import Said
from tokensel.errors import BadSampleError, TokenselError, first_line

# What datasets and PIL raise for a picture that is truncated or none.
_BAD_PICTURE = (OSError, SyntaxError, ValueError)
#: By task, split and number: documents, as lmms-eval gives them to a model.
Documents = Mapping[str, Mapping[str, Any]]


class Unscored:
    """The benchmark of a question that lmms-eval scores itself."""

    digest = "lmms-eval"

    def score(self, question: Question, said: Said) -> tuple[None, Said]:
        """No share, and what was said as it is."""
        return None, said

    def figures(self, scored: Sequence[tuple[Question, Any]]) -> dict[str, Any]:
        """None."""
        return {}


UNSCORED = Unscored()


@dataclass(frozen=True)
class Asked:
    """A question whose pictures are not opened yet. numbers: of the requests that its answer belongs to.

    words: the prompt's. details: the other fields of the question.
    """

    id: str
    words: str
    visuals: Callable[[], Any]
    numbers: tuple[int, ...]
    details: Mapping[str, Any]

    def question(self) -> Question:
        """The question, with its pictures. Raises TokenselError where one cannot be read, or is a video or a sound."""
        return Question(
            id=self.id,
            text=self.words,
            answer=NO_CHOICE,
            image=self._pictures(),
            instruction="",
            benchmark=UNSCORED,
            **{"choices": ()} | dict(self.details),
        )

    def _pictures(self) -> list[Image.Image]:
        try:
            found = self.visuals()
        except _BAD_PICTURE as error:
            raise BadSampleError(
                f"question {self.id}: its picture cannot be read ({first_line(error)})", question_id=self.id
            ) from error
        flat = list(_flat(found))
        for each in flat:
            if not isinstance(each, Image.Image):
                kind = "a video" if isinstance(each, str) else "a sound" if isinstance(each, dict) else repr(type(each))
                raise TokenselError(f"question {self.id}: shows {kind}; tokensel takes pictures only")
        return flat


def to_write(requests: Sequence[Any], documents: Documents) -> list[Asked]:
    """The questions of `generate_until`. requests: their arguments.

    Raises TokenselError for generation_kwargs other than greedy decoding.
    """
    asked = []
    for number, (words, rules, visuals, document, task, split) in enumerate(requests):
        most, until = _rule(task, rules)
        details = {"form": "text", "max_new_tokens": most, "until": until}
        shown = _shown(visuals, documents, task, split, document)
        asked.append(Asked(f"{task}-{document}", words, shown, (number,), details))
    return asked


def to_compare(requests: Sequence[Any], documents: Documents) -> list[Asked]:
    """The questions of `loglikelihood`: all continuations of one document's prompt are its options.

    Raises TokenselError for requests that have no document.
    """
    together: dict[tuple[Any, ...], list[tuple[int, str, Any]]] = {}
    for number, request in enumerate(requests):
        if len(request) != 6:
            raise TokenselError("metric=acc_mutual_info: not supported; it compares options without their question")
        words, continuation, visuals, document, task, split = request
        text = continuation if isinstance(continuation, str) else continuation(documents[task][split][document])
        together.setdefault((words, document, task, split), []).append((number, str(text), visuals))
    asked = []
    for (words, document, task, split), options in together.items():
        numbers, texts, visuals = zip(*options, strict=True)
        shown = _shown(visuals[0], documents, task, split, document)
        asked.append(Asked(f"{task}-{document}", words, shown, numbers, {"form": "options", "choices": texts}))
    return asked


def _shown(
    visuals: Callable[[Any], Any] | None, documents: Documents, task: str, split: str, number: int
) -> Callable[[], Any]:
    """Reads a document's pictures, which decodes them."""
    return lambda: [] if visuals is None else visuals(documents[task][split][number])


def _rule(task: str, rules: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    try:
        return writing_rule(rules)
    except TokenselError as error:
        raise TokenselError(f"task={task}: {error}") from error


def _flat(visuals: Any) -> Iterator[Any]:
    """The pictures of a document: none, one, or lists of them."""
    if isinstance(visuals, list | tuple):
        for each in visuals:
            yield from _flat(each)
    elif visuals is not None:
        yield visuals
