"""From a plan to the work that is left: each group's questions, and what each grid point's folder lacks."""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

from tokensel.data import Question, draw_order, load_questions
from tokensel.data.yes_no import yes_no_figures
from tokensel.errors import TokenselError
from tokensel.evaluation.clearing import clear_points
from tokensel.evaluation.digests import ids_digest, questions_digest
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.keys import code_digest
from tokensel.evaluation.marking import benchmark_figures
from tokensel.evaluation.question_ids import IdSet
from tokensel.evaluation.store import PointStore, point_key, replace_file
from tokensel.evaluation.summary import summarize
from tokensel.evaluation.sweep.costs import CostedPrompt, costed_prompt, middle_question
from tokensel.evaluation.sweep.groups import DataSettings
from tokensel.evaluation.sweep.plan import (
    Group,
    PlannedPoint,
    SweepPlan,
    aggregator_as_typed,
    options_as_typed,
    solved,
)
from tokensel.evaluation.sweep.videos import check_videos
from tokensel.models.families import family_of
from tokensel.models.loading import check_options, checkpoint_config, checkpoint_revision, find_device
from tokensel.models.weightless import load_without_weights

_ERROR = "error.json"
_log = logging.getLogger(__name__)


@dataclass
class PointWork:
    """A grid point, its folder, and what the folder lacks when the sweep starts.

    settings: those hashed into the key, and the model's path. questions: those it has to answer. metrics: the
    stored figures, if any. budgets: those that its kept was solved for. timed: whether times are wanted. missing: how
    many predictions are missing. lacks_times, lacks_figures: whether times must be taken, and metrics.json written.
    error: why the point failed in this start, or "".
    """

    point: GridPoint
    key: str
    store: PointStore
    settings: dict[str, Any]
    questions: list[Question]
    metrics: dict[str, Any] | None = None
    budgets: set[str] = field(default_factory=set)
    timed: bool = True
    missing: int = 0
    lacks_times: bool = False
    lacks_figures: bool = False
    error: str = ""

    def compare_with_folder(self, latency: dict[str, Any]) -> None:
        """Finds out what is missing. latency: how times are to be taken; with 0 repeats, stored times stay."""
        done = self.store.stored_ids()
        self.metrics = self.store.metrics()
        self.missing = sum(question.id not in done for question in self.questions)
        self.lacks_times = (
            self.timed and latency["repeats"] > 0 and (self.metrics is None or timed_as(self.metrics) != latency)
        )
        stale = self.metrics is None or self.metrics.get("questions") != ids_digest(self.questions)
        unnamed = bool(self.budgets - self._stored_budgets)
        self.lacks_figures = stale or unnamed or self.lacks_times or self.missing > 0 or self._error_file.exists()

    @property
    def known_budgets(self) -> list[str]:
        """All budgets that its kept was ever solved for in this folder."""
        return sorted(self.budgets | self._stored_budgets)

    @property
    def _stored_budgets(self) -> set[str]:
        return set((self.metrics or {}).get("budgets") or ())

    def predictions(self, questions: list[Question]) -> Iterator[dict[str, Any]]:
        """The stored predictions for these questions, read while they are used."""
        ids = IdSet(question.id for question in questions)
        return (record for record in self.store.each_prediction() if record["id"] in ids)

    def figures(self, questions: list[Question]) -> dict[str, Any]:
        """`summarize` of the predictions for these questions, and chance, the accuracy of guessing.

        Under yes_no, the figures of MME and POPE are added; under benchmark, those of the questions' own benchmark.
        """
        chance = mean(1 / len(question.choices) if question.choices else 0.0 for question in questions)
        figures = summarize(self.predictions(questions)) | {"chance": chance}
        if yes_no := yes_no_figures(self.predictions(questions), questions):
            figures["yes_no"] = yes_no
        if benchmark := benchmark_figures(self.predictions(questions), questions):
            figures["benchmark"] = benchmark
        return figures

    def finish(self, metrics: dict[str, Any]) -> None:
        """Stores the figures, and removes the note of an earlier failure."""
        self._error_file.unlink(missing_ok=True)
        self.store.write_metrics(metrics)
        self.metrics = metrics

    def fail(self, error: str) -> None:
        """Notes why the point failed, also in its folder: {"error": one line}."""
        self.error = error
        with suppress(OSError):  # the command says it in any case
            replace_file(self._error_file, (json.dumps({"error": error}, ensure_ascii=False) + "\n").encode())

    @property
    def _error_file(self) -> Path:
        return self.store.folder / _ERROR


def timed_as(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """How the stored times were taken; None if there are none."""
    return ((metrics.get("provenance") or {}).get("protocol") or {}).get("latency")


@dataclass
class GroupWork:
    """A group with its questions and its points.

    questions: all of the data set, in `draw_order`. points: by key. lines: of the final table, with their points' keys.
    """

    group: Group
    questions: list[Question]
    points: dict[str, PointWork] = field(default_factory=dict)
    lines: list[tuple[PlannedPoint, str]] = field(default_factory=list)

    def first(self, limit: int | None) -> list[Question]:
        """The first `limit` questions in `draw_order`, as `load_questions` takes them: a smaller limit is a part of a
        larger one."""
        return self.questions[:limit]

    @property
    def open_points(self) -> list[PointWork]:
        """The points that lack something."""
        return [point for point in self.points.values() if point.lacks_figures]


def prepare(plan: SweepPlan, folder: Path) -> list[GroupWork]:
    """Finds every group's checkpoint, questions and stored results; loads no model. folder: the sweep's.

    Under fresh=true, what is stored of these points is deleted once all of that has been found.

    Raises TokenselError for a mistake that shows in the checkpoint's files, the data set or the stored results.
    """
    works = []
    for group in plan.groups:
        check_options(**group.model.load_arguments())
        revision = checkpoint_revision(group.model.path) or f"{group.model.path}@{group.model.revision}"
        _check_layers(group)
        work = GroupWork(group, questions_of(group.data))
        check_videos(group, work.questions, _config(group))
        _note_kept(work)
        _solve_budgets(work)
        _find_points(work, _shared_settings(group, revision, work.questions), folder)
        works.append(work)
    if plan.settings.fresh:
        stores = [point.store for work in works for point in work.points.values()]
        clear_points([store for store in stores if store.folder.exists()])
    for work in works:
        if plan.settings.on_bad_sample == "error":
            _refuse_skipped(work)
        for point in work.points.values():
            _keep_answered(point, work)
            point.compare_with_folder(plan.settings.latency_protocol())
    return works


def _keep_answered(point: PointWork, work: GroupWork) -> None:
    """Lets a point keep figures of more questions than this start asks: results only grow."""
    metrics = point.store.metrics() or {}
    count = (metrics.get("n") or 0) + (metrics.get("skipped") or 0)
    if count > len(point.questions) and ids_digest(work.first(count)) == metrics.get("questions"):
        point.questions = work.first(count)


def _solve_budgets(work: GroupWork) -> None:
    """Replaces budgets by the kept that meets them, and sorts shares among counts. Loads the processor if need be."""
    group = work.group
    if any(each.budget or isinstance(each.point.final_kept, float) for each in group.points):
        group.points = solved(group.points, middle_prompt(group, work.questions))


def middle_prompt(group: Group, questions: list[Question]) -> CostedPrompt:
    """The prompt of middling length, on which a group's budgets are solved. Loads the processor, and no weights."""
    loaded = load_without_weights(**group.model.load_arguments()).with_protocol(group.protocol)
    device = find_device(group.model.device or "cpu").type
    return costed_prompt(loaded, middle_question(loaded, questions), device)


def _shared_settings(group: Group, revision: str, questions: list[Question]) -> dict[str, Any]:
    """The part of the key that a group's points share."""
    options = dict(group.data.options)
    if not any(question.video for question in questions):
        options.pop("frames", None)  # changes nothing without a video
    data = {"name": group.data.name, "options": options, "digest": questions_digest(questions)}
    return {
        "model": {"revision": revision, **group.model.in_key()},
        "data": data,
        "scoring": group.scoring,
        "protocol": group.protocol_settings,
    }


def _find_points(work: GroupWork, shared: dict[str, Any], folder: Path) -> None:
    """Adds the group's points, each with the largest set of questions that a line of the table asks of it."""
    config = _config(work.group)
    for planned in work.group.points:
        settings = shared | planned.point.settings(config)
        settings["code"] = code_digest(planned.point.method, work.group.data.name)
        key = point_key(settings)
        work.lines.append((planned, key))
        questions = work.first(planned.limit)
        known = work.points.get(key)
        if known is None:
            settings["model"] = settings["model"] | {"path": work.group.model.path}
            store = PointStore(folder / key)
            work.points[key] = PointWork(planned.point, key, store, settings, questions, timed=planned.timed)
        else:
            known.questions = max(known.questions, questions, key=len)
            known.timed |= planned.timed
        if planned.budget is not None:
            work.points[key].budgets.add(str(planned.budget))


def questions_of(data: DataSettings) -> list[Question]:
    """All questions of a data set in `draw_order`, so that a limit takes the first ones."""
    return _questions(data.name, json.dumps(data.options, sort_keys=True))


@lru_cache(maxsize=4)
def _questions(name: str, options: str) -> list[Question]:
    return sorted(load_questions(name, **json.loads(options)), key=draw_order)


def _config(group: Group) -> Any | None:
    """The checkpoint's configuration; None if it cannot be read without loading the model."""
    model = group.model
    return checkpoint_config(model.path, model.revision, bool(model.trust_remote_code), model.family)


def _check_layers(group: Group) -> None:
    """Checks agg_layer and aggregators against the checkpoint's depth and width."""
    if (config := _config(group)) is None:
        return
    decoder = getattr(config, "text_config", config)
    for planned in group.points:
        with options_as_typed(planned.point.method_options), aggregator_as_typed():
            planned.point.stages(decoder.num_hidden_layers, width=decoder.hidden_size)


def _note_kept(work: GroupWork) -> None:
    """Notes once where kept exceeds the number of visual tokens, if all pictures have the same."""
    config = _config(work.group)
    vision = getattr(config, "vision_config", None)
    if vision is None or not family_of(config).fixed_size or any(question.video for question in work.questions):
        return
    count = (vision.image_size // vision.patch_size) ** 2
    final = {planned.point.final_kept for planned in work.group.points}
    above = sorted(kept for kept in final if isinstance(kept, int) and kept > count)
    if above:
        listed = ",".join(map(str, above))
        _log.warning("kept=%s: a picture has %d visual tokens; none is removed", listed, count)


def _refuse_skipped(work: GroupWork) -> None:
    for point in work.points.values():
        for record in point.predictions(point.questions):
            if record.get("skipped"):
                raise TokenselError(
                    f"on_bad_sample=error: {record.get('error') or record['id']}; skipped by an earlier start in "
                    f"{point.store.folder}: use on_bad_sample=skip, or delete that folder once it is repaired"
                )
