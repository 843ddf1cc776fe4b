"""Accuracy of many grid points in one pass over the questions.

For a batch of questions every picture is decoded and seen by the vision tower once, the decoder layers below
each agg_layer run once, and each grid point runs only its own tail. Predictions go to each point's store
batch by batch.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from tokensel.data import Question, stable_hash
from tokensel.engine.cached import CachedModel, cannot_cache, changes_answers, stop_tokens
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.prefetch import prefetch
from tokensel.evaluation.statistics import wilson_interval
from tokensel.evaluation.store import PointStore
from tokensel.models import LoadedModel
from tokensel.models.loaded import Encoded
from tokensel.models.vision import VisionStates

SCORINGS = ("letter", "generate")
BAD_SAMPLE_POLICIES = ("error", "skip")
# Enough for "The answer is B."; LLaVA's own limit of 1024 only matters for models that ramble, which score
# wrong.
ANSWER_TOKENS = 16
# In logits; batching alone moves them by less than 1e-4 in float32.
NEAR_TIE = 1e-3
# Batches that a CPU computes side by side, each with its share of the threads.
MOST_WORKERS = 4


def order_questions(questions: Sequence[Question]) -> list[Question]:
    """A fixed order in which one picture's questions are neighbours, and prompts of like length too.

    So features are shared within a batch, and little is padded.
    """
    longest: dict[str, int] = {}
    for question in questions:
        length = len(question.text) + len(question.hint) + sum(map(len, question.choices))
        longest[question.image_id] = max(length, longest.get(question.image_id, 0))
    return sorted(questions, key=lambda q: (longest[q.image_id], stable_hash(q.image_id), stable_hash(q.id)))


def evaluate(
    loaded: LoadedModel,
    questions: Sequence[Question],
    points: Sequence[GridPoint],
    stores: Sequence[PointStore],
    *,
    batch_size: int = 8,
    scoring: str = "letter",
    on_bad_sample: str = "error",
    progress: Callable[[int], None] | None = None,
    keep_positions: Collection[str] = (),
    compiled: bool = False,
) -> dict[int, Exception]:
    """Predicts, for every point, the questions that its store lacks, and appends them to it after every
    batch.

    scoring          letter: argmax over the option letters' logits at the first answer position, one prefill;
                     generate: greedy decoding, read as LLaVA reads it
    on_bad_sample    a picture that is missing or truncated: error raises, skip writes a row marked skipped
    progress         called with the number of predictions just stored
    keep_positions   ids of questions whose kept visual tokens are stored too
    compiled         torch.compile what is behind a reduction, and with scoring=generate the whole decoder and its steps

    Returns the points that failed, by index, with what they raised; the others are complete. Batches are cut
    from the full list, so that a second start after an interruption computes with the same neighbours and so
    the same bits. Raises BadSampleError under on_bad_sample=error; batches before it are stored.
    """
    if scoring not in SCORINGS:
        raise TokenselError(f"scoring={scoring}: unknown; choose one of {', '.join(SCORINGS)}")
    split = SplitModel(loaded.model, compiled)
    if compiled and scoring == "generate":
        why = cannot_cache(split) or changes_answers(loaded.model.generation_config)
        if why is not None:
            assert split.graphs is not None
            split.graphs.go_without("generate", why)
            split = SplitModel(loaded.model)
    run = _Pass(loaded, split, points, stores, scoring, on_bad_sample, progress or (lambda count: None), keep_positions)
    workers = 1 if compiled else _workers(loaded, points, scoring)
    # The next batch's pictures are prepared while this one computes.
    with closing(prefetch(run.prepare, _batches(order_questions(questions), batch_size))) as prepared:
        if workers == 1:
            for batch in prepared:
                run.keep(run.compute(batch))
        else:
            with closing(prefetch(run.compute, prepared, workers)) as computed:
                for result in computed:
                    run.keep(result)
    return run.failures


def _workers(loaded: LoadedModel, points: Sequence[GridPoint], scoring: str) -> int:
    """How many batches are computed side by side. On a CPU threads do more with a batch each than all with one.

    One where they would get into each other's way: hooks in the model, or a user's method, which may keep a state.
    """
    if loaded.device.type != "cpu" or scoring == "generate":
        return 1
    methods = [point.make_method() for point in points]
    if any(method.uses_vision or not type(method).__module__.startswith("tokensel.") for method in methods):
        return 1
    return min(MOST_WORKERS, torch.get_num_threads())


def _batches(questions: list[Question], size: int) -> Iterator[list[Question]]:
    """Batches of at most `size`, as even as they can be; several are a multiple of the workers, who then end together.

    They hang on nothing else: whatever computes them, the same questions have the same neighbours.
    """
    # Rows of one batch must hold equally many visual tokens.
    for blind in (False, True):
        alike = [question for question in questions if (question.image is None) == blind]
        count = math.ceil(len(alike) / size)
        if count >= MOST_WORKERS:
            count = MOST_WORKERS * math.ceil(count / MOST_WORKERS)
        begin = 0
        for index in range(count):
            end = len(alike) * (index + 1) // count
            yield alike[begin:end]
            begin = end


@dataclass(frozen=True)
class _Asked:
    """Questions of equally many visual tokens, as tensors. answers: the ids of the tokens that begin each answer, where
    letters are scored."""

    questions: list[Question]
    encoded: Encoded
    answers: list[list[int]]


@dataclass(frozen=True)
class _Prepared:
    """A batch as tensors; and its questions that cannot be asked."""

    groups: list[_Asked]
    bad: list[tuple[Question, BadSampleError]]


@dataclass
class _Computed:
    """What a batch gave: (point, questions, a row each), and the points that failed. Its bad questions as before."""

    bad: list[tuple[Question, BadSampleError]]
    rows: list[tuple[int, list[Question], list[dict[str, Any]]]] = field(default_factory=list)
    failures: dict[int, Exception] = field(default_factory=dict)


class _Pass:
    """One pass: the model in pieces, and what every point still lacks."""

    def __init__(
        self,
        loaded: LoadedModel,
        split: SplitModel,
        points: Sequence[GridPoint],
        stores: Sequence[PointStore],
        scoring: str,
        on_bad_sample: str,
        progress: Callable[[int], None],
        keep_positions: Collection[str],
    ) -> None:
        self.loaded, self.split, self.points, self.stores = loaded, split, points, stores
        self.scoring, self.on_bad_sample, self.progress = scoring, on_bad_sample, progress
        self.keep_positions = keep_positions
        self.cached = CachedModel(split) if split.graphs is not None and scoring == "generate" else None
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.done = [store.done_ids() for store in stores]
        self.failures: dict[int, Exception] = {}

    def lacking(self, questions: Sequence[Question]) -> list[int]:
        """The points, not failed, that lack one of the questions."""
        return [
            index
            for index, done in enumerate(self.done)
            if index not in self.failures and any(question.id not in done for question in questions)
        ]

    def prepare(self, batch: list[Question]) -> "_Prepared":
        """Opens the pictures that are still asked about, and makes the tensors. Changes nothing here."""
        asked = [question for question in batch if self.lacking([question])]
        groups: dict[tuple[Any, ...], list[Question]] = {}
        pictures: dict[str, Image.Image] = {}
        bad: list[tuple[Question, BadSampleError]] = []
        for question in asked:
            try:
                self.loaded.prompt(question)
                if question.image is not None and question.image_id not in pictures:
                    pictures[question.image_id] = question.load_image()
            except BadSampleError as error:
                bad.append((question, error))
                continue
            # Rows of one batch must hold equally many visual tokens.
            shape = () if question.image is None else self.loaded.picture_shape(pictures[question.image_id])
            groups.setdefault(shape, []).append(question)
        # All that the tokenizer does, it does here: it does not stand several threads at once.
        answers = self.answer_ids if self.scoring == "letter" else lambda question: []
        alike = [
            _Asked(questions, self.loaded.encode(questions, pictures), [answers(question) for question in questions])
            for questions in groups.values()
        ]
        return _Prepared(alike, bad)

    @torch.inference_mode()
    def compute(self, prepared: _Prepared) -> _Computed:
        """What the points that lack answers say. Changes nothing here: several batches may be under way."""
        computed = _Computed(prepared.bad)
        if prepared.bad and self.on_bad_sample == "error":
            return computed
        for asked in prepared.groups:
            todo = [index for index in self.lacking(asked.questions) if index not in computed.failures]
            if todo and self.cached is not None:
                self.generate_compiled(self.cached, asked, todo, computed)
            elif todo and self.scoring == "generate":
                self.generate(asked, todo, computed)
            elif todo:
                self.score_letters(asked, todo, computed)
        return computed

    def keep(self, computed: _Computed) -> None:
        """Stores what a batch gave. Raises its first bad sample's error under on_bad_sample=error."""
        for question, error in computed.bad:
            if self.on_bad_sample == "error":
                raise error
            row = {"prediction": None, "correct": False, "margin": None, "skipped": True, "error": str(error)}
            for index in self.lacking([question]):
                self.append(index, [question], [row])
        for index, questions, rows in computed.rows:
            if index not in self.failures:
                self.append(index, questions, rows)
        self.failures |= {index: error for index, error in computed.failures.items() if index not in self.failures}

    def score_letters(self, asked: _Asked, todo: list[int], computed: _Computed) -> None:
        questions = asked.questions
        stages = {index: self.points[index].stages(self.split.num_layers) for index in todo}
        state = self.embed(asked, stages.values())
        # Shallow points first: the shared layers are then walked once, upwards.
        for index in sorted(todo, key=lambda index: stages[index][0].layer):
            try:
                state = self.split.run(state, min(stages[index][0].layer, self.split.num_layers))
                reduced = self.split.reduce_all(state, stages[index])
                rows = letter_rows(self.split.logits(reduced), asked)
            except Exception as error:  # whatever a user's method raises: the other points go on
                computed.failures[index] = error
                continue
            computed.rows.append((index, questions, _with_positions(rows, questions, reduced, self.keep_positions)))

    def embed(self, asked: _Asked, stages: Iterable[Sequence[Stage]]) -> State:
        """The prompts about to enter the first layer, seen as these points need it."""
        encoded = asked.encoded
        features, vision = self.features(encoded, any(stage.method.uses_vision for each in stages for stage in each))
        return self.split.embed(
            encoded.input_ids,
            encoded.attention_mask,
            image_features=features,
            row_keys=row_keys(asked.questions, encoded.input_ids.device),
            vision=vision,
            pictures=encoded.pictures,
        )

    def features(self, encoded: Encoded, looks: bool) -> tuple[list[torch.Tensor] | None, VisionStates | None]:
        """Visual tokens of every row that has a picture, [N, D] each, every picture seen once; and what the vision
        tower saw, if some method looks at that and can."""
        if not encoded.pictures:
            return None, None
        rows = encoded.places.tolist()
        if not looks or not self.loaded.family.one_grid:
            seen = self.split.picture_features(encoded.pictures)
            return [seen[row] for row in rows], None
        features, vision = self.split.look(encoded.pictures["pixel_values"])
        return [features[row] for row in rows], vision.rows(encoded.places)

    def answer_ids(self, question: Question) -> list[int]:
        key = (question.form, len(question.choices))
        if key not in self.answers:
            self.answers[key] = self.loaded.answer_ids(question)
        return self.answers[key]

    def generate(self, asked: _Asked, todo: list[int], computed: _Computed) -> None:
        questions, inputs = asked.questions, self.loaded.arguments(asked.encoded)
        input_ids = inputs["input_ids"]
        keys = row_keys(questions, input_ids.device)
        for index in todo:
            point = self.points[index]
            try:
                with reduce_tokens(
                    self.loaded.model, point.make_method(), row_keys=keys, **point.reduction()
                ) as record:
                    written = self.loaded.model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS)
            except Exception as error:
                computed.failures[index] = error
                continue
            rows = self.read(questions, written[:, input_ids.shape[1] :])
            computed.rows.append((index, questions, _with_positions(rows, questions, record, self.keep_positions)))

    def generate_compiled(self, cached: CachedModel, asked: _Asked, todo: list[int], computed: _Computed) -> None:
        """`generate` over buffers of a fixed size; every picture is seen once for all points."""
        questions = asked.questions
        stages = {index: self.points[index].stages(self.split.num_layers) for index in todo}
        state = self.embed(asked, stages.values())
        stop, pad = stop_tokens(self.loaded.model.generation_config)
        for index in todo:
            try:
                written, record = cached.greedy(state, stages[index], ANSWER_TOKENS, stop, pad)
            except Exception as error:
                computed.failures[index] = error
                continue
            rows = self.read(questions, written)
            computed.rows.append((index, questions, _with_positions(rows, questions, record, self.keep_positions)))

    def read(self, questions: Sequence[Question], written: torch.Tensor) -> list[dict[str, Any]]:
        """A row for each answer, LongTensor[B, n]."""
        texts = self.loaded.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [
            {"prediction": self.loaded.protocol.read(text, question), "margin": None, "text": text}
            for text, question in zip(texts, questions, strict=True)
        ]

    def append(self, index: int, questions: list[Question], rows: list[dict[str, Any]]) -> None:
        """Stores the rows that the point lacks: a batch may hold some that it has."""
        new = []
        for question, row in zip(questions, rows, strict=True):
            if question.id not in self.done[index]:
                correct = row["prediction"] == question.answer
                base = {"id": question.id, "answer": question.answer, "correct": correct, "skipped": False}
                new.append(base | row)
        self.stores[index].append(new)
        self.done[index].update(row["id"] for row in new)
        self.progress(len(new))


def letter_rows(logits: torch.Tensor, asked: _Asked) -> list[dict[str, Any]]:
    """logits [B, V] -> a row per question: the best of its own letters, or of yes and no, and by how much."""
    logits = logits.float().cpu()
    rows = []
    for row, question, ids in zip(logits, asked.questions, asked.answers, strict=True):
        scores = row[ids]
        best = scores.topk(min(2, len(scores)))
        if not torch.isfinite(best.values).all():
            raise FloatingPointError(f"question {question.id}: the letters' logits are {best.values.tolist()}")
        margin = (best.values[0] - best.values[-1]).item()
        rows.append({"prediction": int(best.indices[0]), "margin": round(margin, 6)})
    return rows


def _with_positions(
    rows: list[dict[str, Any]], questions: list[Question], source: Any, wanted: Collection[str]
) -> list[dict[str, Any]]:
    """Adds to the rows of the wanted questions which visual tokens stayed, as indices into the picture's
    grid."""
    positions = getattr(source, "positions", None)
    if positions is None or not any(question.id in wanted for question in questions):
        return rows
    listed = positions.tolist()
    return [
        row | {"positions": kept} if question.id in wanted and question.image is not None else row
        for row, question, kept in zip(rows, questions, listed, strict=True)
    ]


def row_keys(questions: Sequence[Question], device: torch.device) -> torch.Tensor:
    """LongTensor[B]: what random choices are drawn from, beside the seed."""
    return torch.tensor([int(stable_hash(question.id)[:15], 16) for question in questions], device=device)


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a point's predictions: n, correct, accuracy, ci_low, ci_high (Wilson, 95%), skipped; min_margin,
    the least distance between the best and the second logit, and near_ties, how many are below NEAR_TIE: those answers
    may turn with the hardware's rounding. None where answers were written, not scored.

    Skipped questions count in `skipped` only. Without any answered question the shares are None.
    """
    answered = [row for row in rows if not row.get("skipped")]
    correct = sum(bool(row["correct"]) for row in answered)
    figures: dict[str, Any] = {"n": len(answered), "correct": correct, "skipped": len(rows) - len(answered)}
    margins = [row["margin"] for row in answered if row.get("margin") is not None]
    figures["min_margin"] = min(margins, default=None)
    figures["near_ties"] = sum(margin < NEAR_TIE for margin in margins) if margins else None
    if not answered:
        return figures | {"accuracy": None, "ci_low": None, "ci_high": None}
    low, high = wilson_interval(correct, len(answered))
    return figures | {"accuracy": correct / len(answered), "ci_low": low, "ci_high": high}
