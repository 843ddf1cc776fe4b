"""Single answers, one row per grid point and question, and the questions themselves."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.results import load_results
from tokensel.data import Question, draw_order, load_questions, stable_hash
from tokensel.errors import TokenselError
from tokensel.evaluation.keys import questions_digest
from tokensel.evaluation.store import PointStore, ids_digest

# The columns that a question gives.
QUESTION = ("question", "choices", "hint", "subject", "topic", "family", "grade", "category", "image_id")


def load_predictions(
    source: str | Path, keys: Collection[str] | None = None, questions: Sequence[Question] | None = None
) -> pd.DataFrame:
    """One row per grid point and question.

    source      what `load_results` takes
    keys        only these points
    questions   adds what they tell, by id: question (its words), choices, hint, subject, topic, family, grade,
                category, image_id. The folders hold ids only; `questions_of` loads the questions again

    Columns: key and folder of the point; id; prediction and answer, indices into the choices (NA where none could be
    read); correct; margin of the best choice over the next, in logits (NA for written answers); skipped; text, the
    written answer; positions, the kept visual tokens where they were stored. A point with figures has the rows that
    these are made of; any other has all that are stored.

    Raises TokenselError for a source without grid points, and for keys that it does not hold.
    """
    results = load_results(source).dropna(subset="folder")
    if keys is not None:
        unknown = sorted(set(keys) - set(results["key"]))
        if unknown:
            raise TokenselError(f"keys={','.join(unknown)}: not in {source}")
        results = results[results["key"].isin(list(keys))]
    if results.empty:
        raise TokenselError(f"source={source}: the points' folders, which hold the predictions, are not beside it")
    order = {question.id: draw_order(question) for question in questions or ()}
    parts = [
        _point(folder, asked, order) for folder, asked in zip(results["folder"], results["questions"], strict=True)
    ]
    sizes = [len(part) for part in parts]
    frame = pd.concat(parts, ignore_index=True)
    for place, name in enumerate(("key", "folder")):
        values = list(results[name])
        kinds = list(dict.fromkeys(values))
        codes = np.repeat(np.array([kinds.index(value) for value in values], dtype=np.int32), sizes)
        frame.insert(place, name, pd.Series(pd.Categorical.from_codes(codes, pd.Index(kinds))))
    return frame if questions is None else _joined(frame, questions)


def questions_of(results: pd.DataFrame) -> list[Question]:
    """The questions that these results were asked, loaded again by the data's name and options in config.yaml.

    Raises TokenselError if the results are of several data sets, if the data set cannot be loaded here, or if its
    questions have changed since.
    """
    told = results[["data", "data_options", "data_digest"]].dropna(subset="data_digest").drop_duplicates("data_digest")
    if len(told) != 1:
        listed = ", ".join(told["data"]) or "none that a point's files tell"
        raise TokenselError(
            f"questions_of: the results are of {len(told)} data sets ({listed}); choose the rows of one"
        )
    name, options, digest = told.iloc[0]
    questions = load_questions(name, **json.loads(options))
    if questions_digest(questions) != digest:
        raise TokenselError(f"data={name}: its questions have changed since these results were made")
    return questions


def _point(folder: str, asked: Any, order: Mapping[str, tuple]) -> pd.DataFrame:
    rows = _stored(folder)
    if not pd.isna(asked) and ids_digest(row["id"] for row in rows) != asked:
        rows = _of_figures(rows, folder, asked, order)
    column: dict[str, list[Any]] = {
        name: [row.get(name) for row in rows] for name in ("id", "prediction", "answer", "margin")
    }
    frame = pd.DataFrame(column).astype({"id": "string", "prediction": "Int16", "answer": "Int16", "margin": "Float64"})
    for name in ("correct", "skipped"):
        frame[name] = pd.array([bool(row.get(name)) for row in rows], dtype=bool)
    frame["text"] = pd.array([row.get("text") for row in rows], dtype="string")
    frame["positions"] = pd.Series([row.get("positions") for row in rows], dtype=object)
    return frame


def _stored(folder: str) -> list[dict[str, Any]]:
    """As `PointStore.predictions`, several times as fast where the file is whole."""
    try:
        lines = (Path(folder) / "predictions.jsonl").read_bytes().split(b"\n")[:-1]
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        if len({row["id"] for row in rows}) == len(rows):
            return rows
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return PointStore(folder).predictions()


def _of_figures(
    rows: list[dict[str, Any]], folder: str, asked: str, order: Mapping[str, tuple]
) -> list[dict[str, Any]]:
    """Those rows that the point's figures are made of: a larger limit was begun, or a smaller one asked for since."""
    rows = sorted(rows, key=lambda row: order.get(row["id"], (stable_hash(row["id"]), "")))
    for count in range(len(rows) - 1, 0, -1):
        if ids_digest(row["id"] for row in rows[:count]) == asked:
            return rows[:count]
    raise TokenselError(f"{folder}: its figures are of other questions than its predictions; start its sweep again")


def _joined(frame: pd.DataFrame, questions: Sequence[Question]) -> pd.DataFrame:
    known = pd.DataFrame(
        [
            [q.id, q.text, q.choices, q.hint, q.subject, q.topic, q.family, q.grade, q.category, q.image_id]
            for q in questions
        ],
        columns=["id", *QUESTION],
    ).astype({"id": "string"})
    return frame.merge(known, on="id", how="left", validate="many_to_one")
