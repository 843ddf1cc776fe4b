"""The class that lmms-eval runs: a checkpoint with one reduction, answered by the code of a sweep."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from tokensel.compat.lmms_eval.options import naming, read_options
from tokensel.compat.lmms_eval.requests import Asked, to_compare, to_write
from tokensel.errors import TokenselError
from tokensel.evaluation.one_pass import Batch, Computed, OnePass
from tokensel.evaluation.prefetch import prefetch
from tokensel.models import load_model


class Tokensel(lmms):
    """A vision-language model whose visual tokens are reduced, as lmms-eval's tasks ask it.

    Its answers are those of a sweep with the same settings over the same task: the same questions, by the same code.
    Methods that draw at random draw from the question's name, "TASK-NUMBER", as there.

    Options, of `--model_args`: `pretrained`, a checkpoint as for `model.path`; `method`, none or full for the model as
    it is; and every other of a sweep's point, model and method by its name, see `tokensel.compat.lmms_eval.options`.

    Raises TokenselError, in one line that names the option, for one that is unknown or wrong.
    """

    is_simple = True

    def __init__(self, batch_size: int | str = 8, max_batch_size: int | None = None, **options: Any) -> None:
        super().__init__()
        read = read_options({"batch_size": batch_size} | options)
        self.settings = read.settings
        arguments = self.settings.model.load_arguments()
        # One of several processes that accelerate or torchrun started: each takes a GPU of its own.
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and arguments.get("device") in ("auto", "cuda"):
            arguments["device"] = _own_device()
        with naming(read.typed):
            self.loaded = load_model(**arguments).with_protocol(self.settings.protocol())
        self._pass = OnePass(self.loaded, [read.point()], compiled=self.settings.compile, written=True)

    @property
    def batch_size(self) -> int:
        """How many questions run together."""
        return self.settings.batch_size

    @property
    def device(self) -> Any:
        """The model's device."""
        return self.loaded.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The written answers, by greedy decoding, without the text that ends them."""
        answers = [""] * len(requests)
        for asked, record in self._answers(to_write([each.args for each in requests], self.task_dict)):
            answers[asked.numbers[0]] = record["scored"]
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each continuation, as `.text`, its tokens' mean negative log-likelihood, as lmms-eval's own models give
        it, and whether greedy decoding would write it."""
        answers: list[GenerationResult] = [GenerationResult("")] * len(requests)
        for asked, record in self._answers(to_compare([each.args for each in requests], self.task_dict)):
            for number, (loss, is_greedy) in zip(asked.numbers, record["scored"], strict=True):
                # lmms-eval 0.7.3 turns a bare pair into text, and its multiple-choice tasks then fail.
                answers[number] = GenerationResult((loss, is_greedy))  # type: ignore[arg-type]
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported: raises TokenselError that names the task."""
        task = requests[0].args[5] if requests else ""
        raise TokenselError(f"task={task}: asks in several rounds; the model tokensel answers one prompt at a time")

    def _answers(self, asked: Sequence[Asked]) -> Iterator[tuple[Asked, dict[str, Any]]]:
        """Every question with its record.

        Raises BadSampleError for the first that cannot be asked, and whatever the method raises.
        """
        cut: deque[list[Asked]] = deque()
        with (
            tqdm(total=len(asked), disable=self.rank != 0, desc="tokensel") as bar,
            closing(prefetch(self._pass.prepare, self._batches(asked, cut))) as prepared,
            closing(prefetch(self._pass.compute, prepared, self._pass.parallel)) as computed,
        ):
            for done in computed:
                batch = cut.popleft()
                yield from zip(batch, _records(batch, done), strict=True)
                bar.update(len(batch))

    def _batches(self, asked: Sequence[Asked], cut: deque[list[Asked]]) -> Iterator[Batch]:
        """Opens the questions' pictures batch by batch. cut: receives what each batch asks."""
        # Questions of similar length are neighbours, so that a batch needs little padding.
        order = sorted(asked, key=lambda each: (len(each.words), each.id))
        for begin in range(0, len(order), self.batch_size):
            chunk = [(each, each.question()) for each in order[begin : begin + self.batch_size]]
            for without_picture in (False, True):  # the rows of a batch hold equally many visual tokens
                alike = [pair for pair in chunk if (pair[1].image is None) == without_picture]
                if alike:
                    cut.append([each for each, _ in alike])
                    yield Batch([question for _, question in alike], lambda questions: [0])


def _records(chunk: Sequence[Asked], computed: Computed) -> list[dict[str, Any]]:
    """The records in the order of the questions."""
    for _, error in computed.bad:
        raise error
    for failure in computed.failures.values():
        raise failure
    # Records of one id have one order, as groups keep that of the batch.
    waiting: dict[str, list[dict[str, Any]]] = {}
    for _, records in computed.results:
        for record in records:
            waiting.setdefault(record["id"], []).append(record)
    return [waiting[each.id].pop(0) for each in chunk]


def _own_device() -> str:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
