"""The computing side of a pass over the questions: a batch becomes tensors, and then every point's records.

It stores nothing and knows of no other batch: batches may be computed in any order, in threads or other processes.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from tokensel.choices import SCORINGS
from tokensel.data import Question
from tokensel.engine.kept import Kept
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.engine.state import slides
from tokensel.engine.ties import TieWatch
from tokensel.engine.writing import changes_answers
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.answers import add_choice, add_ties, greedy_settings, read_answers, row_keys
from tokensel.evaluation.batches import count_workers
from tokensel.evaluation.downsample import downsampled, same_pictures
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.marking import record_of
from tokensel.evaluation.ways import Group, Way, answer_group, way_of
from tokensel.models import LoadedModel
from tokensel.models.loaded import Encoded, Shown
from tokensel.models.vision import VisionStates


@dataclass(frozen=True)
class Batch:
    """Questions that are answered together. lacking: the points that lack the answer to one of these questions."""

    questions: Sequence[Question]
    lacking: Callable[[Sequence[Question]], list[int]]


@dataclass(frozen=True)
class Prepared:
    """A batch as tensors, and its questions whose picture or prompt is bad."""

    batch: Batch
    groups: list[Group]
    bad: list[tuple[Question, BadSampleError]]


@dataclass
class Computed:
    """The results of a batch: (point, records as predictions.jsonl has them), the points that failed, and the bad
    questions."""

    bad: list[tuple[Question, BadSampleError]]
    results: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    failures: dict[int, Exception] = field(default_factory=dict)


class OnePass:
    """Answers batches of questions at many grid points.

    scoring, on_bad_sample, keep_positions, compiled, check_ties: as for `tokensel.evaluation.accuracy.evaluate`.
    written: whether some questions are answered in words whatever the scoring

    Raises TokenselError for an unknown scoring.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        points: Sequence[GridPoint],
        *,
        scoring: str = "letter",
        on_bad_sample: str = "error",
        keep_positions: Collection[str] = (),
        compiled: bool = False,
        check_ties: bool = False,
        written: bool = False,
    ) -> None:
        if scoring not in SCORINGS:
            raise TokenselError(f"scoring={scoring}: unknown; choose one of {', '.join(SCORINGS)}")
        self.loaded, self.points = loaded, points
        self.scoring, self.on_bad_sample = scoring, on_bad_sample
        self.keep_positions, self.check_ties = keep_positions, check_ties
        # Methods read words while the next batch is tokenized, and a tokenizer cannot be shared between threads.
        self.split = SplitModel(loaded.model, compiled, tokenizer=deepcopy(loaded.processor.tokenizer))
        if self.split.graphs is not None and scoring == "generate":
            why = changes_answers(loaded.model.generation_config)
            if why is not None:
                self.split.graphs.go_without("generate", why)
                self.split.graphs = None
        self.not_greedy = changes_answers(loaded.model.generation_config)
        self.slides = slides(self.split.parts)
        # What graphs cannot do runs without: several tokens behind a prompt, and branches of one.
        self.plain = (
            self.split if self.split.graphs is None else SplitModel(loaded.model, tokenizer=self.split.parts.tokenizer)
        )
        stock = self.not_greedy is not None or self.slides
        alone = compiled or (stock and (scoring == "generate" or written))
        # How many batches may be computed at once.
        self.parallel = 1 if alone else count_workers(loaded, [point.make_method() for point in points])
        # By point, to how many patches its pictures are reduced; points that agree share the vision tower's work.
        self.pictures = [same_pictures(loaded, point.picture_kept) for point in points]
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.asked: set[int] = set()

    def prepare(self, batch: Batch) -> Prepared:
        """Opens the pictures of a batch's open questions and makes the tensors. One thread at a time may call it."""
        groups: dict[tuple[tuple[Any, ...], Way, Kept | None], list[Question]] = {}
        pictures: dict[Kept | None, dict[str, Shown]] = {None: {}}
        bad: list[tuple[Question, BadSampleError]] = []
        for question in batch.questions:
            lacking = batch.lacking([question])
            if not lacking:
                continue
            several = dict.fromkeys(self.pictures[index] for index in lacking) if question.pictures else [None]
            try:
                # Rows of one tensor batch must hold equally many visual tokens.
                shapes = {kept: self.loaded.shape_of(question, self.open(question, pictures, kept)) for kept in several}
            except BadSampleError as error:
                bad.append((question, error))
                continue
            way = way_of(question, self.scoring, self.slides)
            for kept, shape in shapes.items():
                groups.setdefault(((len(question.pictures), *shape), way, kept), []).append(question)
        encoded = [self.encode(questions, way, pictures[kept], kept) for (_, way, kept), questions in groups.items()]
        return Prepared(batch, encoded, bad)

    def open(self, question: Question, pictures: dict[Kept | None, dict[str, Shown]], kept: Kept | None) -> list[Shown]:
        """A question's pictures, reduced to `kept` patches unless that is None; or its video's frames as one entry.

        pictures: by kept and picture id, those that were opened before; what is opened now is added.

        Raises BadSampleError for a picture that cannot be read or prepared.
        """
        ids, known = question.picture_ids, pictures.setdefault(kept, {})
        if any(id not in known for id in ids):
            if kept is None:
                known.update(zip(ids, self.loaded.load_images(question), strict=True))
            else:
                whole = self.open(question, pictures, None)
                self.loaded.shape_of(question, whole)  # raises for a picture that no processor takes
                known.update((id, downsampled(self.loaded, each, kept)) for id, each in zip(ids, whole, strict=True))
        return [known[id] for id in ids]

    def encode(
        self, questions: list[Question], way: Way, pictures: dict[str, Shown], kept: Kept | None = None
    ) -> Group:
        """The questions of one way as tensors. Only this thread uses the tokenizer, which is not safe to share."""
        encoded = self.loaded.encode(questions, pictures)
        answers: list[list[int]] = []
        options: list[list[list[int]]] = []
        if way.name == "letter":
            answers = [self.answer_ids(question) for question in questions]
        if way.name == "options":
            prompts = [self.loaded.prompt(question) for question in questions]
            options = [
                [self.loaded.continuation(prompt, choice) for choice in question.choices]
                for prompt, question in zip(prompts, questions, strict=True)
            ]
        return Group(questions, encoded, way, answers, options, kept)

    @torch.inference_mode()
    def compute(self, prepared: Prepared) -> Computed:
        """Answers a batch for all points that lack answers. Changes no state: several batches may run in parallel."""
        computed = Computed(prepared.bad)
        if prepared.bad and self.on_bad_sample == "error":
            return computed
        for group in prepared.groups:
            lacking = prepared.batch.lacking(group.questions)
            computed.failures |= self.without_video(group, lacking)
            todo = [index for index in lacking if index not in computed.failures and self.serves(group, index)]
            if todo and self.is_stock(group.way):
                self.generate(group, todo, computed)
            elif todo:
                self.answer(group, todo, computed)
        return computed

    def serves(self, group: Group, index: int) -> bool:
        """Whether a group shows the pictures that a point is about."""
        return not group.encoded.pictures or group.kept == self.pictures[index]

    def without_video(self, group: Group, lacking: Iterable[int]) -> dict[int, Exception]:
        """The failures of points that make pictures smaller before the model sees them, where a video is shown."""
        if not group.encoded.video:
            return {}
        return {
            index: TokenselError(
                f"method={self.points[index].method}: makes pictures smaller, and question {group.questions[0].id} "
                "shows a video; leave the method out"
            )
            for index in lacking
            if self.pictures[index] is not None
        }

    def is_stock(self, way: Way) -> bool:
        """Whether only the stock model's generate() writes what it writes: with other settings than greedy, or where it
        sees the padding of a batch."""
        return way.name == "generate" and (self.not_greedy is not None or (self.slides and not way.alone))

    def answer(self, group: Group, todo: list[int], computed: Computed) -> None:
        """Answers a group; points share the pictures and the layers below their first stage."""
        stages = self.stages(todo)
        split = self.plain if group.way.name == "options" or group.way.alone else self.split
        state = self.embed(group, stages.values())
        for outcome in answer_group(self.loaded, split, group, state, stages):
            index, reduced = outcome.index, outcome.reduced
            if reduced is None:
                computed.failures[index] = outcome.error or TokenselError("no answer")
                continue
            records = add_ties(outcome.records, group.questions, stages[index][0].watch)
            records = add_choice(records, group.questions, reduced, stages[index], self.keep_positions)
            computed.results.append((index, list(map(record_of, group.questions, records))))

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
            pictures=self.given(encoded),
        )

    def given(self, encoded: Encoded) -> dict[str, torch.Tensor]:
        """The pictures as the engine takes them: row by row, where rows have several."""
        if not encoded.several:
            return encoded.pictures
        return self.loaded.family.take(encoded.pictures, encoded.picture_indices.tolist())

    def features(self, encoded: Encoded, uses_vision: bool) -> tuple[list[torch.Tensor] | None, VisionStates | None]:
        """The visual tokens of every row's pictures, [N, D] each; every picture is encoded once.

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
            point = self.points[index].in_model
            try:
                if group.way.alone:
                    raise TokenselError(
                        f"question {group.way.alone}: several turns need greedy decoding ({self.not_greedy})"
                    )
                with reduce_tokens(
                    self.loaded.model,
                    point.make_method(),
                    row_keys=keys,
                    questions=self.texts(group.questions),
                    picture_sizes=group.encoded.picture_sizes,
                    tokenizer=self.split.parts.tokenizer,
                    **point.reduction(),
                ) as record:
                    written = self.loaded.model.generate(**inputs, **greedy_settings(group.way.max_new_tokens))
            except Exception as error:
                computed.failures[index] = error
                continue
            records = read_answers(self.loaded, group.questions, written[:, input_ids.shape[1] :])
            records = add_choice(records, group.questions, record, point.stages(), self.keep_positions)
            computed.results.append((index, list(map(record_of, group.questions, records))))
