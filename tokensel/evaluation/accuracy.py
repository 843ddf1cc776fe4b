"""Accuracy of many grid points in one pass over the questions.

For each batch, every picture is decoded and encoded by the vision tower once, and the decoder layers below agg_layer
run once; each grid point then runs only the layers above. Predictions are stored batch by batch.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from copy import deepcopy
from typing import Any

import torch
from PIL import Image

from tokensel.choices import SCORINGS
from tokensel.data import Question
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.engine.ties import TieWatch
from tokensel.engine.writing import Writer, cannot_share, changes_answers, stop_tokens
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.answers import (
    ANSWER_TOKENS,
    GREEDY,
    add_choice,
    add_ties,
    read_answers,
    row_keys,
    score_letters,
)
from tokensel.evaluation.batches import count_workers, cut_batches, in_turn, order_questions
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.pass_data import Computed, Group, PredictionStore, Prepared
from tokensel.evaluation.prefetch import prefetch
from tokensel.models import LoadedModel
from tokensel.models.loaded import Encoded
from tokensel.models.vision import VisionStates


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
    if scoring not in SCORINGS:
        raise TokenselError(f"scoring={scoring}: unknown; choose one of {', '.join(SCORINGS)}")
    # Methods read words while the next batch is tokenized, and a tokenizer cannot be shared between threads.
    tokenizer = deepcopy(loaded.processor.tokenizer)
    split = SplitModel(loaded.model, compiled, tokenizer=tokenizer)
    if split.graphs is not None and scoring == "generate":
        why = changes_answers(loaded.model.generation_config)
        if why is not None:
            split.graphs.go_without("generate", why)
            split.graphs = None
    run = _OnePass(loaded, split, points, stores, scoring, on_bad_sample, progress, keep_positions, check_ties)
    hooked = scoring == "generate" and not run.shares
    workers = 1 if compiled or hooked else count_workers(loaded, [point.make_method() for point in points])
    # The next batch's pictures are prepared while this batch is computed.
    with closing(prefetch(run.prepare, cut_batches(order_questions(questions), batch_size))) as prepared:
        if workers == 1:
            for batch in prepared:
                run.keep(run.compute(batch))
        else:
            with closing(prefetch(run.compute, prepared, workers)) as computed:
                for result in computed:
                    run.keep(result)
    return run.failures


class _OnePass:
    """One pass over the questions: the model, and what every point still lacks."""

    def __init__(
        self,
        loaded: LoadedModel,
        split: SplitModel,
        points: Sequence[GridPoint],
        stores: Sequence[PredictionStore],
        scoring: str,
        on_bad_sample: str,
        progress: Callable[[int], None] | None,
        keep_positions: Collection[str],
        check_ties: bool,
    ) -> None:
        self.loaded, self.split, self.points, self.stores = loaded, split, points, stores
        self.scoring, self.on_bad_sample, self.progress = scoring, on_bad_sample, progress or (lambda count: None)
        self.keep_positions, self.check_ties = keep_positions, check_ties
        self.shares = cannot_share(split, loaded.model.generation_config) is None
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.asked: set[int] = set()
        self.done, self.failures = [store.done_ids() for store in stores], dict[int, Exception]()

    def lacking(self, questions: Sequence[Question]) -> list[int]:
        """The points that lack one of these questions and have not failed."""
        return [
            index
            for index, done in enumerate(self.done)
            if index not in self.failures and any(question.id not in done for question in questions)
        ]

    def prepare(self, batch: list[Question]) -> Prepared:
        """Opens the pictures of a batch's open questions and makes the tensors. Changes no state."""
        groups: dict[tuple[Any, ...], list[Question]] = {}
        pictures: dict[str, Image.Image] = {}
        bad: list[tuple[Question, BadSampleError]] = []
        for question in batch:
            if not self.lacking([question]):
                continue
            try:
                if question.image is not None and question.image_id not in pictures:
                    pictures[question.image_id] = self.loaded.load_image(question)
                # Rows of one tensor batch must hold equally many visual tokens.
                shape = self.loaded.shape_of(question, pictures.get(question.image_id))
            except BadSampleError as error:
                bad.append((question, error))
                continue
            groups.setdefault(shape, []).append(question)
        # Only this thread uses the tokenizer, which is not safe to share.
        answers = self.answer_ids if self.scoring == "letter" else lambda question: []
        encoded = [
            Group(questions, self.loaded.encode(questions, pictures), [answers(question) for question in questions])
            for questions in groups.values()
        ]
        return Prepared(encoded, bad)

    @torch.inference_mode()
    def compute(self, prepared: Prepared) -> Computed:
        """Answers a batch for all points that lack answers. Changes no state: several batches may run in parallel."""
        computed = Computed(prepared.bad)
        if prepared.bad and self.on_bad_sample == "error":
            return computed
        for group in prepared.groups:
            todo = [index for index in self.lacking(group.questions) if index not in computed.failures]
            if todo and self.scoring == "generate":
                write = self.write if self.shares else self.generate
                write(group, todo, computed)
            elif todo:
                self.score(group, todo, computed)
        return computed

    def keep(self, computed: Computed) -> None:
        """Stores the results of a batch. Under on_bad_sample=error, raises the batch's first bad sample instead."""
        for question, error in computed.bad:
            if self.on_bad_sample == "error":
                raise error
            record = {"prediction": None, "correct": False, "margin": None, "skipped": True, "error": str(error)}
            for index in self.lacking([question]):
                self.append(index, [question], [record])
        for index, questions, records in computed.results:
            if index not in self.failures:
                self.append(index, questions, records)
        self.failures |= {index: error for index, error in computed.failures.items() if index not in self.failures}

    def score(self, group: Group, todo: list[int], computed: Computed) -> None:
        """Answers by the letters' logits."""
        stages = self.stages(todo)
        state = self.embed(group, stages.values())
        for index in in_turn(stages, state.visual_index.shape[1]):
            try:
                state = self.split.run(state, min(stages[index][0].layer, self.split.num_layers))
                reduced = self.split.reduce_all(state, stages[index])
                records = score_letters(self.split.logits(reduced), group.questions, group.answer_ids)
            except Exception as error:  # a user's method may raise anything; the other points go on
                computed.failures[index] = error
                continue
            records = add_ties(records, group.questions, stages[index][0].watch)
            records = add_choice(records, group.questions, reduced, stages[index], self.keep_positions)
            computed.results.append((index, group.questions, records))

    def stages(self, todo: Iterable[int]) -> dict[int, list[Stage]]:
        """Each point's stages, for one batch."""
        made = {}
        for index in todo:
            watch = TieWatch() if self.check_ties else None
            made[index] = self.points[index].stages(self.split.num_layers, watch, asks_twice=index not in self.asked)
            self.asked.add(index)
        return made

    def embed(self, group: Group, stages: Iterable[Sequence[Stage]]) -> State:
        """The prompts as they enter the first layer. stages: those of all points, whose methods say what they need."""
        encoded = group.encoded
        config = self.loaded.model.config
        uses_vision = any(stage.method.reads_tower(config) for each in stages for stage in each)
        features, vision = self.features(encoded, uses_vision)
        return self.split.embed(
            encoded.input_ids,
            encoded.attention_mask,
            image_features=features,
            row_keys=row_keys(group.questions, encoded.input_ids.device),
            questions=self.texts(group.questions),
            picture_sizes=encoded.picture_sizes,
            vision=vision,
            pictures=encoded.pictures,
        )

    def features(self, encoded: Encoded, uses_vision: bool) -> tuple[list[torch.Tensor] | None, VisionStates | None]:
        """The visual tokens of every row with a picture, [N, D] each; every picture is encoded once.

        With uses_vision also the vision tower's states.
        """
        if not encoded.pictures:
            return None, None
        rows = encoded.picture_indices.tolist()
        features, vision = self.split.features(encoded.pictures, uses_vision)
        features = [features[row] for row in rows]
        return features, None if vision is None else vision.rows(encoded.picture_indices)

    def texts(self, questions: Sequence[Question]) -> list[str]:
        """The bare questions, for methods that read them."""
        return [self.loaded.protocol.question_text(question) for question in questions]

    def answer_ids(self, question: Question) -> list[int]:
        """The token ids that begin the question's possible answers."""
        key = (question.form, len(question.choices))
        if key not in self.answers:
            self.answers[key] = self.loaded.answer_ids(question)
        return self.answers[key]

    def generate(self, group: Group, todo: list[int], computed: Computed) -> None:
        """Answers written by the stock model's generate(), whose settings may be other than greedy."""
        inputs = self.loaded.arguments(group.encoded)
        input_ids = inputs["input_ids"]
        keys = row_keys(group.questions, input_ids.device)
        for index in todo:
            point = self.points[index]
            try:
                with reduce_tokens(
                    self.loaded.model,
                    point.make_method(),
                    row_keys=keys,
                    questions=self.texts(group.questions),
                    picture_sizes=group.encoded.picture_sizes,
                    tokenizer=self.split.parts.tokenizer,
                    **point.reduction(),
                ) as record:
                    written = self.loaded.model.generate(**inputs, **GREEDY)
            except Exception as error:
                computed.failures[index] = error
                continue
            records = read_answers(self.loaded, group.questions, written[:, input_ids.shape[1] :])
            records = add_choice(records, group.questions, record, point.stages(), self.keep_positions)
            computed.results.append((index, group.questions, records))

    def write(self, group: Group, todo: list[int], computed: Computed) -> None:
        """Answers written by greedy decoding. Every picture is encoded once, and the layers below each point's first
        stage run once for all points."""
        stages = self.stages(todo)
        writer = Writer(self.split)
        state = writer.begin(self.embed(group, stages.values()), ANSWER_TOKENS)
        stop, pad = stop_tokens(self.loaded.model.generation_config)
        for index in in_turn(stages, state.visual_index.shape[1]):
            try:
                state = self.split.run(state, min(stages[index][0].layer, self.split.num_layers))
                written, reduced = writer.greedy(state, stages[index], ANSWER_TOKENS, stop, pad)
            except Exception as error:
                computed.failures[index] = error
                continue
            records = read_answers(self.loaded, group.questions, written)
            records = add_ties(records, group.questions, stages[index][0].watch)
            records = add_choice(records, group.questions, reduced, stages[index], self.keep_positions)
            computed.results.append((index, group.questions, records))

    def append(self, index: int, questions: list[Question], records: list[dict[str, Any]]) -> None:
        """Stores the records that the point lacks; a batch may hold questions that it already has."""
        new = []
        for question, record in zip(questions, records, strict=True):
            if question.id not in self.done[index]:
                correct = record["prediction"] == question.answer
                base = {"id": question.id, "answer": question.answer, "correct": correct, "skipped": False}
                new.append(base | record)
        self.stores[index].append(new)
        self.done[index].update(record["id"] for record in new)
        self.progress(len(new))
