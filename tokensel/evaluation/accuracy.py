"""Accuracy of many grid points in one pass over the questions.

For each batch, every picture is decoded and encoded by the vision tower once, and the decoder layers below agg_layer
run once; each grid point then runs only the layers above. Predictions are stored batch by batch.
"""

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from contextlib import closing
from typing import Any, Protocol

from tokensel.data import Question
from tokensel.errors import BadSampleError
from tokensel.evaluation.batches import cut_batches, order_questions
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.marking import record_of_skipped
from tokensel.evaluation.one_pass import Batch, Computed, OnePass
from tokensel.evaluation.prefetch import prefetch
from tokensel.models import LoadedModel


class PredictionStore(Protocol):
    """Where predictions go: `tokensel.evaluation.store.PointStore`, or anything with these two methods."""

    def stored_ids(self) -> Set[str]: ...
    def append(self, rows: Iterable[dict[str, Any]]) -> None: ...


def evaluate(
    loaded: LoadedModel,
    questions: Sequence[Question],
    points: Sequence[GridPoint],
    stores: Sequence[PredictionStore],
    *,
    batch_size: int = 8,
    scoring: str = "letter",
    on_bad_sample: str = "error",
    progress: Callable[[int], None] | None = None,
    keep_positions: Collection[str] = (),
    compiled: bool = False,
    check_ties: bool = False,
) -> dict[int, Exception]:
    """Predicts every question that a point's store lacks, for all points, and appends the predictions batch by batch.

    stores           one for each point
    scoring          letter: argmax over the option letters' logits at the first answer position, one prefill;
                     generate: greedy decoding, and the written answer is read by the model's protocol
    on_bad_sample    for a picture that is missing or truncated. error: raise; skip: store a record marked skipped
    progress         called with the number of predictions just stored
    keep_positions   ids of questions whose kept visual tokens are stored too
    compiled         run the layers behind a reduction as compiled graphs; with scoring=generate all layers and steps
    check_ties       store tied_choice with each prediction, see `tokensel.engine.ties`

    Returns the points that failed, by index, with what they raised; the others are complete. Batches are cut from the
    full list of questions: a run that resumes has the same batches, and so the same bits.

    Raises TokenselError for an unknown scoring, and BadSampleError under on_bad_sample=error, once the batches before
    the bad sample are stored.
    """
    run = OnePass(
        loaded,
        points,
        scoring=scoring,
        on_bad_sample=on_bad_sample,
        keep_positions=keep_positions,
        compiled=compiled,
        check_ties=check_ties,
        written=any(question.is_written for question in questions),
    )
    ledger = Ledger(stores, on_bad_sample, progress)
    batches = (Batch(batch, ledger.lacking) for batch in cut_batches(order_questions(questions), batch_size))
    # The next batch's pictures are prepared while this batch is computed.
    with closing(prefetch(run.prepare, batches)) as prepared:
        if run.parallel == 1:
            for batch in prepared:
                ledger.keep(run.compute(batch))
        else:
            with closing(prefetch(run.compute, prepared, run.parallel)) as computed:
                for result in computed:
                    ledger.keep(result)
    return ledger.failures


class Ledger:
    """What every point still lacks; stores the results of batches as they come.

    failures: the points that failed, with what they raised. They lack nothing any more.
    """

    def __init__(
        self,
        stores: Sequence[PredictionStore],
        on_bad_sample: str = "error",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.stores, self.on_bad_sample, self.progress = stores, on_bad_sample, progress or (lambda count: None)
        # Views: what is appended shows in them.
        self.done, self.failures = [store.stored_ids() for store in stores], dict[int, Exception]()

    def lacking(self, questions: Sequence[Question]) -> list[int]:
        """The points that lack one of these questions and have not failed."""
        return [
            index
            for index, done in enumerate(self.done)
            if index not in self.failures and any(question.id not in done for question in questions)
        ]

    def keep(self, computed: Computed) -> None:
        """Stores the results of a batch. Under on_bad_sample=error, raises the batch's first bad sample instead."""
        for question, error in computed.bad:
            self.keep_bad(question, error)
        for index, records in computed.results:
            self.append(index, records)
        for index, failure in computed.failures.items():
            self.failures.setdefault(index, failure)

    def keep_bad(self, question: Question, error: BadSampleError) -> None:
        """Stores a question that cannot be asked as skipped; under on_bad_sample=error, raises the error."""
        if self.on_bad_sample == "error":
            raise error
        for index in self.lacking([question]):
            self.append(index, [record_of_skipped(question, error)])

    def append(self, index: int, records: Sequence[dict[str, Any]]) -> None:
        """Stores those of the records that the point lacks, unless it has failed."""
        if index in self.failures:
            return
        new = [record for record in records if record["id"] not in self.done[index]]
        self.stores[index].append(new)
        self.progress(len(new))
