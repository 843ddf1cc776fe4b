"""Predictions are read in blocks and kept in columns: the same answers as line by line, in a fraction of the memory."""

import gc
import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tokensel.data import stable_hash
from tokensel.errors import TokenselError
from tokensel.evaluation import prediction_file
from tokensel.evaluation.prediction_file import PredictionFile
from tokensel.evaluation.question_ids import IdSet, QuestionIds, ids_digest
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.stored_answers import figured_places, read_answers, shared_correct


def record(number: int, **fields) -> dict:
    return {"id": f"q{number}", "prediction": number % 3, "answer": 0, "correct": number % 3 == 0} | fields


def write(folder: Path, lines: list[str], end: str = "") -> PointStore:
    folder.mkdir(exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines) + end, encoding="utf-8")
    return PointStore(folder)


def peak(use) -> int:
    """The most memory in bytes that Python held during a call."""
    gc.collect()
    tracemalloc.start()
    try:
        use()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A point with 3000 predictions, and the numbering of its questions kept alive by another reader."""
    lines = [json.dumps(record(number, margin=number / 7, skipped=False)) for number in range(3000)]
    store = write(tmp_path_factory.mktemp("large"), lines)
    return store, store.stored_ids()


@pytest.mark.slow
def test_reading_needs_memory_for_a_block_not_for_the_file(large, monkeypatch):
    monkeypatch.setattr(prediction_file, "_BLOCK_BYTES", 2**12)
    store, _ = large
    whole = peak(store.predictions)
    for use in (lambda: read_answers(store.each_prediction()), lambda: sum(1 for _ in store.each_prediction())):
        assert peak(use) < whole / 5


def test_a_stored_prediction_takes_a_few_bytes(large):
    store, _ = large
    answers = read_answers(store.each_prediction())
    columns = (answers.number, answers.correct, answers.skipped, answers.prediction, answers.answer)
    assert sum(column.nbytes for column in columns) == 10 * 3000


def test_columns_are_the_records_each_question_once():
    positions = [4, 5]
    records = [record(1), record(0, positions=positions), record(2, prediction=None, skipped=True), record(1, answer=2)]
    letters = {"id": "letters", "prediction": "A", "answer": "B", "correct": False}
    answers = read_answers([*records, letters, {"id": "bare"}])
    names = answers.ids.names
    assert [names[number] for number in answers.number] == ["q1", "q0", "q2", "letters", "bare"]
    assert answers.correct.tolist() == [False, True, False, False, False]
    assert answers.skipped.tolist() == [False, False, True, False, False]
    assert answers.prediction.tolist() == [1, 0, -1, -1, -1]
    assert answers.answer.tolist() == [0, 0, 0, -1, -1]
    assert answers.accuracy == 0.25
    assert {names[number]: kept for number, kept in answers.positions.items()} == {"q0": positions}
    assert answers.take(np.array([0, 2])).positions == {}
    assert read_answers([]).accuracy is None


@pytest.mark.parametrize("block", [1, 60, 100, 10_000])
@pytest.mark.parametrize("end", ["", '{"id": "q9", "corr'])
def test_blocks_end_anywhere_and_an_incomplete_line_is_ignored(block, end, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_file, "_BLOCK_BYTES", block)
    records = [record(number, text="é" * number) for number in range(9)]
    lines = [json.dumps(each, ensure_ascii=False) for each in records]
    store = write(tmp_path, lines, end)
    assert store.predictions() == records
    file = PredictionFile(tmp_path / "predictions.jsonl")
    assert len(list(file)) == 9
    assert file.complete == sum(len(line.encode()) + 1 for line in lines)


@pytest.mark.parametrize("block", [1, 100, 10_000])
@pytest.mark.parametrize(
    "broken",
    ["", "nonsense", "[]", '{"id": "q9"}, {"id": "q8"}', '{"id": "q9"', "\x00\x00", '{"id": "q9", "answer": -1}'],
)
def test_an_invalid_line_is_named_unless_it_is_the_last(broken, block, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_file, "_BLOCK_BYTES", block)
    lines = [json.dumps(record(number)) for number in range(5)]
    store = write(tmp_path / "last", [*lines, broken])
    assert [each["id"] for each in store.predictions()] == ["q0", "q1", "q2", "q3", "q4"]
    assert store.done_ids() == {"q0", "q1", "q2", "q3", "q4"}
    assert (tmp_path / "last" / "predictions.jsonl").read_text() == "".join(f"{line}\n" for line in lines)
    with pytest.raises(TokenselError, match=r"predictions\.jsonl: line 4 is not a prediction; delete the line"):
        write(tmp_path / "inside", [*lines[:3], broken, *lines[3:]]).predictions()


def test_two_lines_that_are_valid_only_together_are_refused(tmp_path):
    """Joined by a comma they parse, with as many records as lines."""
    lines = [json.dumps(record(0)), '{"id": "a", "parts": [{"id": "b"}', '{"id": "c"}]}', '{"id": "d"}, {"id": "e"}']
    with pytest.raises(TokenselError, match="line 2 is not a prediction"):
        write(tmp_path, [*lines, json.dumps(record(1))]).predictions()


def test_ids_of_a_store_follow_its_file_without_a_lock(tmp_path):
    store = write(tmp_path, [json.dumps(record(number)) for number in range(3)])
    assert store.stored_ids() == {"q0", "q1", "q2"}
    assert not (tmp_path / ".lock").exists()
    with PointStore(tmp_path) as other:
        other.append([record(3)])
    assert set(store.stored_ids()) == store.done_ids() == {"q0", "q1", "q2", "q3"}
    store.append([record(3), record(4)])
    assert "q4" in store.stored_ids()
    assert "q5" not in store.stored_ids()
    assert len(store.stored_ids()) == 5
    store.close()


def test_all_in_memory_share_one_numbering_which_ends_with_them():
    one, other = IdSet(["a", "b"]), IdSet(["b", "c"])
    assert one.ids is other.ids
    assert one - other == {"a"}
    assert one & other == {"b"}
    assert {one.ids.names[number] for number in range(len(one.ids))} >= {"a", "b", "c"}
    held = one.ids
    del one, other
    gc.collect()
    assert QuestionIds.shared() is held


def test_a_digest_of_numbers_is_that_of_the_ids():
    answers = read_answers(record(number) for number in (3, 1, 2))
    for _ in range(2):
        assert answers.ids.digest(answers.number) == ids_digest(["q1", "q2", "q3"])
        assert answers.ids.digest(answers.number[:2]) == ids_digest(["q1", "q3"])


def test_figures_name_the_first_stored_or_the_first_drawn():
    answers = read_answers(record(number) for number in range(30))
    names = [f"q{number}" for number in range(30)]
    drawn = sorted(names, key=stable_hash)

    def places(ids: list[str], **counts) -> list[str]:
        metrics = {"questions": ids_digest(ids)} | counts
        found = answers.take(figured_places(answers.number, answers.ids, metrics, Path("folder")))
        return [answers.ids.names[number] for number in found.number]

    assert places(names, n=30) == names
    assert places(names[:7], n=5, skipped=2) == names[:7]
    assert places(drawn[:7], n=7) == drawn[:7]
    assert places(drawn[:7]) == drawn[:7]  # figures without their number
    with pytest.raises(TokenselError, match="folder: its figures were computed from other questions"):
        places(drawn[:7], n=8)


def test_shared_answers_are_those_of_the_questions_that_all_answered():
    draw = random.Random(3)
    points = []
    for _ in range(4):
        numbers = draw.sample(range(40), 30)
        points.append([record(number, correct=draw.random() < 0.5, skipped=draw.random() < 0.1) for number in numbers])
    plain = [{each["id"]: each["correct"] for each in records if not each["skipped"]} for records in points]
    shared = [id for id in plain[0] if all(id in each for each in plain)]
    assert 5 < len(shared) < 30
    found = shared_correct([read_answers(records) for records in points])
    assert found.tolist() == [[each[id] for id in shared] for each in plain]
