"""Loads predictions, one row per grid point and question, and the questions themselves."""

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.results import Source, load_results
from tokensel.data import Question, data_name, draw_order, load_questions
from tokensel.errors import TokenselError
from tokensel.evaluation.agreement import said
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.marking import share_of
from tokensel.evaluation.question_ids import QuestionIds
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.stored_answers import figured_places

# The columns that come from the questions.
QUESTION = ("question", "choices", "hint", "subject", "topic", "family", "grade", "category", "image_id")
_TYPES: dict[str, Any] = {"id": "string", "prediction": "Int16", "answer": "Int16", "margin": "Float64"}
_TYPES |= {"correct": bool, "skipped": bool, "text": "string", "positions": object}
_TYPES |= {"said": np.int16}


def load_predictions(
    source: Source, keys: Collection[str] | None = None, questions: Sequence[Question] | None = None
) -> pd.DataFrame:
    """Loads one row per grid point and question.

    source      as in `load_results`; every seed is a point of its own
    keys        load only the points with these keys
    questions   adds the columns of QUESTION, joined by id. The folders store only ids; `questions_of` loads the
                questions

    Columns:
    key, folder         of the point
    id                  of the question
    prediction, answer  indices into the choices; NA where no answer could be read
    correct             whether the prediction is right; where answers are right in part, their shares from 0 to 1
    margin              logit of the best choice minus that of the second; NA for written answers
    skipped             whether the question was skipped, or its answer is not scored by itself
    text                the written answer
    positions           indices of the kept visual tokens, where they were stored
    said                equal where two answers to a question are the same: the prediction, or a number below -1 for
                        what was written

    A point with figures has exactly the predictions that its figures were computed from. Any other point has all its
    stored predictions.

    Raises TokenselError if the source holds no grid point or lacks one of the keys.
    """
    results = load_results(source, each_seed=True).dropna(subset="folder")
    if keys is not None:
        unknown = sorted(set(keys) - set(results["key"]))
        if unknown:
            raise TokenselError(f"keys={','.join(unknown)}: not in {source}")
        results = results[results["key"].isin(list(keys))]
    if results.empty:
        raise TokenselError(f"source={source}: the points' folders, which store the predictions, are not beside it")
    order = {question.id: draw_order(question) for question in questions or ()}
    asked = results[["folder", "questions", "n", "skipped"]].to_dict("records")
    parts = [_point(point, order) for point in asked]
    sizes = [len(part["id"]) for part in parts]
    # A column at a time, so that of ten million predictions only one column is in memory twice.
    columns = {name: pd.concat([part.pop(name) for part in parts], ignore_index=True) for name in _TYPES}
    if columns["correct"].dtype == object:  # right in part at some points only
        columns["correct"] = columns["correct"].astype(float)
    frame = pd.DataFrame(columns, copy=False)
    for index, name in enumerate(("key", "folder")):
        values = list(results[name])
        categories = list(dict.fromkeys(values))
        codes = np.repeat(np.array([categories.index(value) for value in values], dtype=np.int32), sizes)
        frame.insert(index, name, pd.Series(pd.Categorical.from_codes(codes, pd.Index(categories))))
    return frame if questions is None else _joined(frame, questions)


def questions_of(results: pd.DataFrame) -> list[Question]:
    """Loads the questions of these results, by the name and the options of the data set that their rows state.

    Raises TokenselError if the results come from several data sets, if the data set cannot be loaded on this machine,
    or if its questions have changed since the sweep.
    """
    sets = results[["data", "data_options", "data_digest"]].dropna(subset="data_digest").drop_duplicates("data_digest")
    if len(sets) != 1:
        listed = ", ".join(sets["data"]) or "no point's files state one"
        raise TokenselError(
            f"questions_of: the results come from {len(sets)} data sets ({listed}); pass the rows of one"
        )
    label, options, digest = sets.iloc[0]
    questions = load_questions(data_name(label), **json.loads(options))
    if questions_digest(questions) != digest:
        raise TokenselError(f"data={label}: its questions have changed since these results were made")
    return questions


def _point(point: Mapping[Hashable, Any], order: Mapping[str, tuple]) -> dict[str, pd.Series]:
    """One point's predictions, by column.

    point: its folder, and questions, n and skipped of its figures; NA for no figures.
    """
    metrics = {str(name): None if pd.isna(value) else value for name, value in point.items()}
    column: dict[str, list[Any]] = {name: [] for name in _TYPES}
    for record in PointStore(point["folder"]).each_prediction():
        for name, values in column.items():
            values.append(record.get(name))
        share = share_of(record)
        column["correct"][-1] = bool(share) if share in (None, 0, 1) else share
        column["skipped"][-1] = bool(record.get("skipped")) or share is None
        column["said"][-1] = said(record)
    ids = QuestionIds.shared()
    numbers = np.array([ids.numbers[id] for id in column["id"]], dtype=np.int32)
    places = figured_places(numbers, ids, metrics, Path(point["folder"]), order)
    whole = all(type(share) is bool for share in column["correct"])
    types = _TYPES if whole else _TYPES | {"correct": float}
    if min(column["said"], default=0) < -1:
        types = types | {"said": np.int64}
    return {name: pd.Series(column.pop(name), dtype=object).astype(kind).iloc[places] for name, kind in types.items()}


def _joined(frame: pd.DataFrame, questions: Sequence[Question]) -> pd.DataFrame:
    known = pd.DataFrame(
        [
            [q.id, q.text, q.choices, q.hint, q.subject, q.topic, q.family, q.grade, q.category, q.image_id]
            for q in questions
        ],
        columns=["id", *QUESTION],
    ).astype({"id": "string"})
    return frame.merge(known, on="id", how="left", validate="many_to_one")
