"""The one-pass evaluation: predictions that depend on point and question alone, whatever goes wrong."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint
from helpers.evaluation import POINTS, assert_same_predictions, evaluate_points

from tokensel import METHODS, Method, Selection, TokenselError, reduce_tokens, register_method
from tokensel.engine import source
from tokensel.errors import BadSampleError
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.batches import cut_batches, order_questions
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.summary import summarize
from tokensel.models import load_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def test_batches_side_by_side_give_what_they_give_one_by_one(loaded, tmp_path):
    questions, threads = make_questions(12), torch.get_num_threads()
    alone, _ = evaluate_points(loaded, tmp_path / "a", questions, batch_size=3)
    torch.set_num_threads(3)
    try:
        several, failures = evaluate_points(loaded, tmp_path / "b", questions, batch_size=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert not failures
    assert_same_predictions(alone, several)
    assert [list(rows) for rows in alone] == [list(rows) for rows in several]


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(5, 8, [5]), (20, 8, [6, 7, 7]), (33, 8, [4, 4, 4, 4, 4, 4, 4, 5])]
)
def test_batches_are_even_and_several_go_into_the_workers(count, size, sizes):
    batches = list(cut_batches(make_questions(count), size))
    assert sorted(map(len, batches)) == sizes
    assert [question.id for batch in batches for question in batch] == [q.id for q in make_questions(count)]


def test_predictions_do_not_depend_on_batch_size_order_or_other_points(loaded, tmp_path):
    questions = make_questions(12)
    together, failures = evaluate_points(loaded, tmp_path / "a", questions, batch_size=5)
    assert not failures
    assert_same_predictions(together, evaluate_points(loaded, tmp_path / "b", questions[::-1], batch_size=1)[0])
    alone = [
        evaluate_points(loaded, tmp_path / f"c{index}", questions, [point], batch_size=12)[0][0]
        for index, point in enumerate(POINTS)
    ]
    assert_same_predictions(together, alone)


def test_letter_scores_are_those_of_the_model_under_reduce_tokens(loaded, tmp_path):
    questions = make_questions(4)
    found, _ = evaluate_points(loaded, tmp_path, questions)
    for point, rows in zip(POINTS, found, strict=True):
        for question in questions:
            key = row_keys([question], loaded.device)
            with (
                torch.no_grad(),
                reduce_tokens(loaded.model, point.make_method(), row_keys=key, **point.reduction()),
            ):
                logits = loaded.model(**loaded.prepare([question])).logits[0, -1]
            letters = logits[loaded.letter_ids(len(question.choices))]
            assert rows[question.id]["prediction"] == int(letters.argmax())
            best = letters.topk(2).values
            assert rows[question.id]["margin"] == pytest.approx(float(best[0] - best[1]), abs=1e-4)


def test_each_picture_is_opened_once_per_batch_and_layers_below_agg_layer_run_once(loaded, tmp_path):
    opened = Counter()
    layers = Counter()
    questions = [
        replace(question, image=lambda q=question: opened.update([q.image_id]) or make_questions(8)[0].image())
        for question in make_questions(8, per_picture=4)
    ]
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: layers.update([index]))
        for index, layer in enumerate(loaded.model.model.language_model.layers)
    ]
    try:
        points = [GridPoint("fps", kept=kept, agg_layer=2) for kept in (2, 4, 8)]
        evaluate_points(loaded, tmp_path, questions, points, batch_size=4)
    finally:
        for hook in hooks:
            hook.remove()
    assert set(opened.values()) == {1}
    assert layers == {0: 2, 1: 2, 2: 6, 3: 6}


def test_points_share_the_attention_they_rank_by_and_times_do_not(loaded, tmp_path, monkeypatch):
    seen, rows = [], source.attention_to_visual
    monkeypatch.setattr(source, "attention_to_visual", lambda *given: seen.append(given) or rows(*given))
    points = [GridPoint("fastv", kept=kept, agg_layer=2) for kept in (2, 4, 8)]
    questions = make_questions(8)
    evaluate_points(loaded, tmp_path, questions, points, batch_size=4)
    assert len(seen) == 2  # a batch each
    seen.clear()
    meter = LatencyMeter(loaded, questions[0], repeats=3, warmup=1, decode_tokens=0)
    meter._time_selection(points[0])
    assert len(seen) >= 4  # every time that is taken


def test_a_second_pass_computes_only_what_a_store_lacks(loaded, tmp_path):
    questions = make_questions(12)
    reference, _ = evaluate_points(loaded, tmp_path / "whole", questions, batch_size=4)
    evaluate_points(loaded, tmp_path / "parts", questions[:5], POINTS[:3], batch_size=4)
    counts = []
    resumed, _ = evaluate_points(loaded, tmp_path / "parts", questions, batch_size=4, progress=counts.append)
    assert sum(counts) == 12 * len(POINTS) - 5 * 3
    assert_same_predictions(reference, resumed)
    evaluate_points(loaded, tmp_path / "parts", questions, progress=lambda count: pytest.fail("computed again"))


def test_a_failing_point_leaves_the_others_complete(loaded, tmp_path):
    @dataclass
    class Broken(Method):
        name: ClassVar[str] = "broken"

        def select(self, context):
            raise RuntimeError("no idea")

    register_method(Broken)
    try:
        points = [GridPoint("broken", kept=4), *POINTS[:3]]
        found, failures = evaluate_points(loaded, tmp_path, make_questions(6), points, batch_size=2)
    finally:
        del METHODS["broken"]
    assert {index: str(error) for index, error in failures.items()} == {0: "no idea"}
    assert [len(rows) for rows in found] == [0, 6, 6, 6]


def broken_question(questions):
    return [*questions, replace(questions[0], id="lost", image="nowhere.png", image_id="lost")]


def test_a_bad_picture_under_error_names_the_question_and_loses_nothing(loaded, tmp_path):
    questions = broken_question(make_questions(6))
    with pytest.raises(BadSampleError, match="lost"):
        evaluate_points(loaded, tmp_path, questions, POINTS[:2], batch_size=1)
    before = order_questions(questions).index(questions[-1])
    assert len(PointStore(tmp_path / "0").predictions()) == before


def test_a_bad_picture_under_skip_is_counted_apart(loaded, tmp_path):
    questions = broken_question(make_questions(6))
    found, failures = evaluate_points(loaded, tmp_path, questions, POINTS[:2], on_bad_sample="skip")
    assert not failures
    for rows in found:
        figures = summarize(list(rows.values()))
        assert (figures["n"], figures["skipped"]) == (6, 1)
        assert rows["lost"]["skipped"]
        assert "nowhere.png" in rows["lost"]["error"]


def test_questions_without_a_picture_are_answered_in_batches_of_their_own(loaded, tmp_path):
    questions = make_questions(6)
    questions[1] = replace(questions[1], image=None)
    found, failures = evaluate_points(loaded, tmp_path, questions, batch_size=6)
    assert not failures
    assert all(len(rows) == 6 for rows in found)


def test_kept_positions_are_stored_for_the_wanted_questions_only(loaded, tmp_path):
    points = [GridPoint("fps", kept=4), GridPoint("full")]
    (fps, full), _ = evaluate_points(loaded, tmp_path, make_questions(4), points, keep_positions={"q1"})
    assert len(fps["q1"]["positions"]) == 4
    assert max(fps["q1"]["positions"]) < 36
    assert "positions" not in fps["q0"]
    assert "positions" not in full["q1"]


def test_generate_scoring_reads_the_written_answer(loaded, tmp_path):
    found, failures = evaluate_points(loaded, tmp_path, make_questions(3), POINTS[:4], scoring="generate", batch_size=3)
    assert not failures
    for rows in found:
        assert all(row["margin"] is None and isinstance(row["text"], str) for row in rows.values())
    # An untrained model writes no letter: wrong, not skipped.
    assert {row["prediction"] for rows in found for row in rows.values()} == {None}


def test_points_that_cannot_differ_have_equal_settings():
    def same(one, other):
        return one.settings() == other.settings()

    assert same(GridPoint("full", temperature=0.2, seed=1), GridPoint("full", agg_layer=0))
    assert same(GridPoint("fastv", kept=4, temperature=0.2, seed=1), GridPoint("fastv", kept=4))
    assert same(GridPoint("fps", kept=4, seed=1), GridPoint("fps", kept=4, aggregation="cross_attention"))
    assert not same(GridPoint("fps", kept=4, temperature=0.2), GridPoint("fps", kept=4))
    assert not same(GridPoint("random", kept=4, seed=1), GridPoint("random", kept=4))
    assert not same(GridPoint("fastv", kept=4, agg_layer=0, seed=1), GridPoint("fastv", kept=4, agg_layer=0))
    drawn = {"start": None}
    assert not same(
        GridPoint("fps", kept=4, seed=1, method_options=drawn), GridPoint("fps", kept=4, method_options=drawn)
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "fsp", "kept": 4}, "fsp.*fps"),
        ({"method": "fps", "kept": 0}, "kept=0"),
        ({"method": "tome", "kept": -1}, "kept=-1"),
        ({"method": "fps"}, "kept=None"),
        ({"method": "fps", "kept": 4, "temperature": 0.0}, "temperature=0"),
        ({"method": "fps", "kept": 4, "temperature": float("nan")}, "temperature=nan"),
        ({"method": "fps", "kept": 4, "agg_layer": -1}, "agg_layer=-1"),
        ({"method": "fps", "kept": 4, "layout": "loose"}, "layout='loose'.*compact"),
        ({"method": "fps", "kept": 4, "method_options": {"begin": 1}}, "begin"),
    ],
)
def test_a_point_that_nobody_could_run_is_refused_in_one_line(settings, named):
    with pytest.raises(TokenselError, match=named) as raised:
        GridPoint(**settings)
    assert "\n" not in str(raised.value)


def test_summary_without_an_answered_question_has_no_accuracy():
    assert summarize([{"correct": False, "skipped": True}])["accuracy"] is None


class Reader(Method):
    """Keeps the first tokens, and notes what it is given to read."""

    name: ClassVar[str] = "reader"
    seen: ClassVar[set[str]] = set()

    def select(self, context):
        assert context.questions is not None
        words, real = context.embed_words([text.split() for text in context.questions])
        assert words.shape[:2] == real.shape
        assert (real.sum(1) > 0).all()
        self.seen.update(context.questions)
        return Selection(torch.arange(context.kept).expand(len(context.questions), -1))


@pytest.mark.parametrize("how", ["letter", "generate", "latency"])
def test_methods_are_given_the_bare_question_of_each_row(loaded, tmp_path, how):
    questions = make_questions(9)
    register_method(Reader)
    try:
        Reader.seen.clear()
        point = GridPoint("reader", kept=4, agg_layer=2)
        if how == "latency":
            questions = questions[:1]
            LatencyMeter(loaded, questions[0], repeats=1, warmup=0, decode_tokens=1).measure(point)
        else:
            _, failures = evaluate_points(loaded, tmp_path, questions, [point], scoring=how, batch_size=2)
            assert not failures, failures
    finally:
        METHODS.pop("reader")
    assert Reader.seen == {loaded.protocol.question_text(question) for question in questions}
    assert not any("Answer with" in text for text in Reader.seen)


@pytest.mark.parametrize("shares", [True, False])
def test_logits_that_are_no_numbers_fail_the_point_whatever_the_scoring(tmp_path, shares):
    loaded = load_model(save_checkpoint(tmp_path / "checkpoint"))
    loaded.model.generation_config.repetition_penalty = 1.0 if shares else 1.1
    with torch.no_grad():
        loaded.model.model.language_model.layers[-1].mlp.down_proj.weight.fill_(float("nan"))
    for scoring in ("letter", "generate"):
        points = [GridPoint("full"), GridPoint("fps", 8)]
        rows, failures = evaluate_points(loaded, tmp_path / scoring, make_questions(2), points, scoring=scoring)
        assert rows == [{}, {}]
        assert [type(failures[index]) for index in (0, 1)] == [FloatingPointError] * 2
