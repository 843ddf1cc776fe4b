"""A task's own scores: `process_results` for each answer, `aggregation` for the figures of all."""

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmms_eval.api.reasoning import strip_reasoning_tags

from tokensel.data.lmms import mmbench
from tokensel.data.lmms.judges import reach, returns_value
from tokensel.data.lmms.surroundings import contained, repeatable
from tokensel.data.lmms.task import Task
from tokensel.data.question import Question, Said
from tokensel.errors import TokenselError, check_choice, first_line

#: The metric in which papers report a task, where it is not the first one.
_REPORTED = ("refcoco_ACC@0.5",)


class TaskScores:
    """The `Benchmark` of a task's questions. Where a task guesses, its guess depends on the question alone.

    Parameters:
        name: the task's
        judge: whether scoring may ask a judge on the network
        metric: the metric that gives a question's share of being right; None: the first that has one

    What it keeps of an answer is {filter: what `process_results` returned}, in JSON's types.

    Raises TokenselError for an unknown metric.
    """

    def __init__(self, task: Task, name: str, judge: bool = False, metric: str | None = None) -> None:
        self.task, self.name, self.judge = task, name, judge
        self._aggregations: Mapping[str, Callable[..., Any]] = task.aggregation()
        self._reach = {each: reach(function) for each, function in self._aggregations.items()}
        if metric is not None:
            check_choice("data.metric", metric, self._aggregations)
        self._metric = metric

    @cached_property
    def digest(self) -> str:
        """Of the task's configuration with the source of its code, how it is read, and lmms-eval's version."""
        config = _described({**vars(self.task.config), "scored": [self.judge, self._metric, self.task.model_name]})
        text = json.dumps([version("lmms-eval"), config], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def score(self, question: Question, said: Said) -> tuple[float | None, Any]:
        """The share by the first filter's results, and every filter's results."""
        document = self.task.eval_docs_no_media[int(question.id.rpartition("-")[2])]
        requests = [SimpleNamespace(resps=[each], filtered_resps={}) for each in _answers(said)]
        results: dict[str, Any] = {}
        try:
            with contained(), repeatable(question.id):
                for ensemble in self.task._filters:
                    ensemble.apply(requests, [document] * len(requests))
                    answers = [self._stripped(each.filtered_resps[ensemble.name]) for each in requests]
                    results[ensemble.name] = self.task.process_once(document, answers)
        except Exception as error:  # the task's own code
            raise TokenselError(
                f"question {question.id}: process_results of data.task={self.name} failed "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error
        with repeatable(question.id):
            return self._share(next(iter(results.values()))), as_json(results)

    def figures(self, scored: Sequence[tuple[Question, Any]]) -> dict[str, Any]:
        """The task's metrics, of the answers in the order of the documents.

        With several filters, each metric is named "metric,filter". Metrics that are not computed stand under
        "left_out", each with the reason; "notes" say what a metric does not contain.
        """
        in_order = sorted(scored, key=lambda each: int(each[0].id.rpartition("-")[2]))
        found: dict[str, Any] = {}
        left_out: dict[str, str] = {}
        notes: dict[str, str] = {}
        for name, metric, values in self._columns([results for _, results in in_order]):
            if reason := self._barred(metric):
                left_out[name] = reason
                continue
            try:
                found[name] = as_json(self._aggregate(metric, values))
            except Exception as error:  # the task's own code; MME's needs both questions of each picture
                left_out[name] = f"could not be computed ({type(error).__name__}: {first_line(error)})"
                continue
            if note := self._note(metric, values):
                notes[name] = note
        return found | {key: value for key, value in (("notes", notes), ("left_out", left_out)) if value}

    def _columns(self, results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[Any]]]:
        """For each filter and metric, the metric's name in the figures, the metric, and its values."""
        filters = [ensemble.name for ensemble in self.task._filters]
        for name in filters:
            for metric in self._aggregations:
                values = [each[name][metric] for each in results if metric in each[name]]
                if values:
                    yield metric if len(filters) == 1 else f"{metric},{name}", metric, values

    def _aggregate(self, metric: str, values: list[Any]) -> Any:
        """As lmms-eval's evaluator; files that it writes beside are deleted."""
        function = self._aggregations[metric]
        evaluator = mmbench.evaluator_of(function)
        with contained(), repeatable(metric), tempfile.TemporaryDirectory() as folder:
            if _takes_args(function):
                function = partial(function, args=SimpleNamespace(output_path=folder))
            with nullcontext() if evaluator is None or self.judge else mmbench.by_rule(evaluator):
                return function(values)

    def _barred(self, metric: str) -> str:
        """Why a metric is not computed here; "" if it is."""
        found, function = self._reach[metric], self._aggregations[metric]
        if not self.judge and (judge := _judge_of(function)):
            return f"a judge on the network ({judge}) scores it; data.judge=true asks it"
        only_file = not returns_value(function) or (found.writes and not _takes_args(function))
        return "is a file to submit, which only lmms-eval writes" if only_file else ""

    def _note(self, metric: str, values: list[Any]) -> str:
        evaluator = None if self.judge else mmbench.evaluator_of(self._aggregations[metric])
        count = 0 if evaluator is None else mmbench.undecided(evaluator, values)
        return f"{count} of {len(values)} answers name no choice by rule: wrong without data.judge=true" * bool(count)

    def _share(self, results: Mapping[str, Any]) -> float | None:
        worse_if_high = {metric for metric, better in self.task.higher_is_better().items() if better is False}
        order = [*_REPORTED, *self._aggregations] if self._metric is None else [self._metric]
        for metric in order:
            if metric in results and metric in self._aggregations and metric not in worse_if_high:
                share = self._share_by(metric, results[metric])
                if share is not None:
                    return share
        return None

    def _share_by(self, metric: str, value: Any) -> float | None:
        share = _in_unit(value.get(self.task.config.score_key) if isinstance(value, Mapping) else value)
        if share is not None:
            return share
        function = self._aggregations[metric]
        evaluator = mmbench.evaluator_of(function)
        if evaluator is not None:
            return mmbench.share(evaluator, value)
        found = self._reach[metric]
        if found.network or found.writes or _takes_args(function):
            return None
        try:
            with contained():
                return _in_unit(function([value]))
        except Exception:  # a figure that a single answer does not have
            return None

    def _stripped(self, answer: Any) -> Any:
        """Without the parts that lmms-eval removes as reasoning."""
        if self.task.reasoning_tags is None:
            return answer
        if isinstance(answer, str):
            return strip_reasoning_tags(answer, self.task.reasoning_tags)
        if isinstance(answer, list):
            return [self._stripped(each) for each in answer]
        return answer


def check_judge(name: str, config: Mapping[str, Any]) -> None:
    """Raises TokenselError for a task none of whose metrics can do without a judge on the network."""
    judge = _judge_of(config.get("process_results"))
    judges = [_judge_of(metric.get("aggregation")) for metric in config.get("metric_list") or ()]
    if judge or (judges and all(judges)):
        raise TokenselError(
            f"data.task={name}: a judge on the network ({judge or judges[0]}) scores it; set data.judge=true"
        )


def as_json(value: Any) -> Any:
    """The value in JSON's types. Arrays become lists; a picture becomes a note that it was left out."""
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(as_json(each) for each in value)
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers, of which some are also Python's
        return as_json(value.tolist())
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return "<picture left out>" if hasattr(value, "getpixel") else str(value)


def _judge_of(function: Any) -> str:
    """The package by which a part of the scoring asks a judge, and cannot do without; "" if it asks none."""
    if not callable(function) or mmbench.evaluator_of(function) is not None:
        return ""
    return min(reach(function).network, default="")


def _answers(said: Said) -> list[Any]:
    return [said] if isinstance(said, str) else [tuple(each) for each in said]


def _in_unit(value: Any) -> float | None:
    return float(value) if isinstance(value, Real | bool) and 0 <= float(value) <= 1 else None


def _takes_args(function: Callable[..., Any]) -> bool:
    return "args" in inspect.signature(function).parameters


def _described(value: Any) -> Any:
    """A configuration with its functions replaced by their names and the digest of their files."""
    if isinstance(value, Mapping):
        return {str(key): _described(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_described(each) for each in value]
    if callable(value):
        value = inspect.unwrap(value)
        # The modules of a task's classes are not registered, so that `inspect` does not find their file.
        codes = [getattr(each, "__code__", None) for each in (value, *getattr(value, "__dict__", {}).values())]
        files = sorted({Path(code.co_filename) for code in codes if code is not None})
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        return [getattr(value, "__qualname__", str(type(value))), *digests]
    return value
