"""Questions in free text, with options, several pictures and several turns: each as by hand, one question at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.checkpoints import make_questions, picture, save_checkpoint
from helpers.evaluation import evaluate_points
from transformers import DynamicCache

from tokensel import TokenselError, reduce_tokens
from tokensel.data import NO_CHOICE, Question
from tokensel.data.protocol import Protocol
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.statistics import (
    compare_seeds,
    mcnemar_exact,
    seeded_accuracy,
    share_interval,
    wilson_interval,
)
from tokensel.evaluation.statistics.seeds import paired_bootstrap_p
from tokensel.evaluation.stored_answers import read_answers, shared_correct
from tokensel.evaluation.summary import summarize
from tokensel.models import load_model

POINTS = [
    GridPoint("full"),
    GridPoint("no_image", agg_layer=0),
    GridPoint("tome", kept=5, agg_layer=0),
    GridPoint("fastv", kept=4, agg_layer=2),
]
NEW = 5


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def in_words(count: int, **changes) -> list[Question]:
    words = {"form": "text", "choices": (), "answer": NO_CHOICE, "answers": ("red",), "max_new_tokens": NEW}
    return [replace(question, **words | changes) for question in make_questions(count)]


def inside(loaded, point, question):
    """The block that reduces this one question's prompt."""
    keys = row_keys([question], loaded.device)
    return reduce_tokens(loaded.model, point.make_method(), row_keys=keys, **point.reduction())


def written_by_hand(loaded, point, question, new=NEW) -> str:
    inputs = loaded.prepare([question])
    with torch.no_grad(), inside(loaded, point, question):
        ids = loaded.model.generate(**inputs, max_new_tokens=new, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_free_text_is_written_whatever_the_scoring_and_marked_against_the_answers(loaded, tmp_path):
    questions = in_words(5)
    by_hand = [{q.id: written_by_hand(loaded, point, q) for q in questions} for point in POINTS]
    # Half of the questions accept what the first point writes, in other words' company.
    questions = [
        replace(q, answers=("never", by_hand[0][q.id])) if index % 2 else q for index, q in enumerate(questions)
    ]
    found, failures = evaluate_points(loaded, tmp_path / "a", questions, POINTS, batch_size=4)
    assert not failures
    for rows, want in zip(found, by_hand, strict=True):
        assert {id: row["text"] for id, row in rows.items()} == want
        assert all(row["prediction"] is None and row["answer"] is None for row in rows.values())
    assert [row["correct"] for row in found[0].values()].count(True) == 2
    assert all(found[0][q.id]["correct"] == bool(index % 2) for index, q in enumerate(questions))
    written, _ = evaluate_points(loaded, tmp_path / "b", questions[::-1], POINTS, batch_size=1, scoring="generate")
    assert written == [dict(reversed(rows.items())) for rows in found] or written == found


def test_free_text_and_lettered_questions_share_a_sweep(loaded, tmp_path):
    lettered = make_questions(3)
    texts = [replace(q, id=f"text-{q.id}") for q in in_words(3)]
    mixed, _ = evaluate_points(loaded, tmp_path / "a", [*lettered, *texts], POINTS)
    alone, _ = evaluate_points(loaded, tmp_path / "b", lettered, POINTS)
    for rows, own in zip(mixed, alone, strict=True):
        assert all(rows[id]["prediction"] == row["prediction"] and "text" not in rows[id] for id, row in own.items())
        assert (
            all(rows[q.id]["text"] == written_by_hand(loaded, POINTS[0], q) for q in texts[:1]) or rows is not mixed[0]
        )


def test_a_text_ends_before_its_first_stop(loaded, tmp_path):
    question = in_words(1, max_new_tokens=9)[0]
    whole = written_by_hand(loaded, POINTS[0], question, 9)
    stop = whole[len(whole) // 2 :]
    stopped = replace(question, until=("never said", stop))
    found, _ = evaluate_points(loaded, tmp_path, [stopped], POINTS[:1])
    assert found[0]["q0"]["text"] == whole[: whole.index(stop)]


def test_options_are_chosen_by_their_likelihood(loaded, tmp_path):
    options = [("red", "what is it and", "blue ?"), ("gray and", "green")]
    questions = [
        replace(q, form="options", choices=options[index % 2], answer=0) for index, q in enumerate(make_questions(4))
    ]
    found, failures = evaluate_points(loaded, tmp_path, questions, POINTS, batch_size=4)
    assert not failures
    for point, rows in zip(POINTS, found, strict=True):
        for question in questions:
            losses = likelihoods_by_hand(loaded, point, question)
            order = sorted(range(len(losses)), key=losses.__getitem__)
            assert rows[question.id]["prediction"] == order[0]
            assert rows[question.id]["margin"] == pytest.approx(losses[order[1]] - losses[order[0]], abs=1e-4)
            assert rows[question.id]["correct"] == (order[0] == 0)


def likelihoods_by_hand(loaded, point, question) -> list[float]:
    losses = []
    for choice in question.choices:
        ids = torch.tensor([loaded.processor.tokenizer(" " + choice, add_special_tokens=False)["input_ids"]])
        inputs, cache = loaded.prepare([question]), DynamicCache(config=loaded.model.config.text_config)
        with torch.no_grad(), inside(loaded, point, question):
            first = loaded.model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1:]
            mask = torch.ones(1, inputs["input_ids"].shape[1] + ids.shape[1])
            later = loaded.model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits
        log = torch.cat([first, later[:, :-1]], 1).log_softmax(-1)
        losses.append(-float(log.gather(2, ids.unsqueeze(2)).mean()))
    return losses


def test_a_benchmark_scores_what_was_said(loaded, tmp_path):
    class Length:
        """An answer is as right as its text is long, in tenths; without a text, it cannot be told."""

        digest = "length"

        def score(self, question, said):
            return (None if question.id == "q1" else min(len(said), 10) / 10), {"said": said}

        def figures(self, scored):
            return {"longest": max(len(entry["said"]) for _, entry in scored)}

    questions = in_words(3, answers=(), benchmark=Length())
    found, _ = evaluate_points(loaded, tmp_path, questions, POINTS[:2])
    for rows in found:
        for row in rows.values():
            assert row["scored"] == {"said": row["text"]}
            share = None if row["id"] == "q1" else min(len(row["text"]), 10) / 10
            assert row.get("score", float(row["correct"])) == share
    options = [replace(q, form="options", choices=("a b", "c")) for q in questions]
    found, _ = evaluate_points(loaded, tmp_path / "options", options, POINTS[:1])
    said = found[0]["q0"]["scored"]["said"]
    assert [loss for loss, _ in said] == pytest.approx(likelihoods_by_hand(loaded, POINTS[0], options[0]), abs=1e-4)
    assert "options" not in found[0]["q0"]


@pytest.mark.parametrize("scoring", ["letter", "generate"])
def test_several_pictures_are_reduced_each_by_itself(loaded, tmp_path, scoring):
    questions = [
        replace(q, image=[lambda index=index: picture(index // 2), lambda index=index: picture(9 + index // 2)])
        for index, q in enumerate(make_questions(3))
    ]
    assert questions[0].picture_ids == questions[1].picture_ids  # two questions about the same two pictures
    found, failures = evaluate_points(loaded, tmp_path, questions, POINTS, scoring=scoring, batch_size=3)
    assert not failures
    for point, rows in zip(POINTS, found, strict=True):
        for question in questions:
            inputs = loaded.prepare([question])
            assert len(inputs["pixel_values"]) == 2
            if scoring == "generate":
                assert rows[question.id]["text"] == written_by_hand(loaded, point, question, 16)
                continue
            with torch.no_grad(), inside(loaded, point, question):
                logits = loaded.model(**inputs).logits[0, -1]
            assert rows[question.id]["prediction"] == int(logits[loaded.letter_ids(len(question.choices))].argmax())


def test_later_turns_follow_the_first_in_its_cache(loaded, tmp_path):
    later = Question("", "and is it red ?", (), NO_CHOICE, None, form="text", answers=("x",), max_new_tokens=NEW)
    choice = Question("", "which one ?", ("it", "red"), 1, None, max_new_tokens=NEW)
    questions = in_words(2, turns=(later, choice))
    # At the first point the second answer is right, and no other.
    right = replace(later, answers=(conversation_by_hand(loaded, POINTS[0], questions[0])[1],))
    questions[0] = replace(questions[0], turns=(right, choice))
    found, failures = evaluate_points(loaded, tmp_path, questions, POINTS, batch_size=3)
    assert not failures
    for point, rows in zip(POINTS, found, strict=True):
        for question in questions:
            turns = rows[question.id]["turns"]
            said = [turn["text"] for turn in turns]
            assert said == conversation_by_hand(loaded, point, question)
            shares = [turn.get("score", float(turn["correct"])) for turn in turns]
            share = rows[question.id].get("score", float(rows[question.id]["correct"]))
            assert share == pytest.approx(sum(shares) / 3)
        if point is POINTS[0]:
            assert rows["q0"]["score"] == pytest.approx(1 / 3)
        by_turn = summarize(rows.values())["turn_accuracy"]
        assert list(by_turn) == ["1", "2", "3"]
        assert sum(by_turn.values()) / 3 == pytest.approx(summarize(rows.values())["accuracy"])


def test_later_turns_are_worded_as_llava_does(loaded):
    later = Question("", "and ?", (), NO_CHOICE, None, form="text", answers=("x",), instruction="")
    question = Question("q", "what ?", (), NO_CHOICE, None, form="text", answers=("x",), instruction="", turns=(later,))
    prompt = Protocol(conv="vicuna_v1").conversation(question, loaded.processor, ["a cat"])
    assert prompt.partition(" USER: ")[2] == "what ? ASSISTANT: a cat</s>USER: and ? ASSISTANT:"


def test_several_turns_are_refused_where_decoding_is_not_greedy(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 1.5)
    later = Question("", "and ?", (), NO_CHOICE, None, form="text", answers=("x",))
    _, failures = evaluate_points(loaded, tmp_path, in_words(1, turns=(later,)), POINTS[:1])
    assert isinstance(failures[0], TokenselError)
    assert "several turns need greedy decoding (repetition_penalty=1.5)" in str(failures[0])


def conversation_by_hand(loaded, point, question) -> list[str]:
    """Every turn anew, over a cache that holds the first prompt."""
    said: list[str] = []
    tokenizer = loaded.processor.tokenizer
    for turn in (question, *question.turns):
        inputs, cache = loaded.prepare([question]), DynamicCache(config=loaded.model.config.text_config)
        prompt = loaded.protocol.conversation(question, loaded.processor, [text.strip() for text in said])
        first = loaded.protocol.conversation(question, loaded.processor)
        more = torch.tensor([tokenizer(prompt[len(first) :], add_special_tokens=False)["input_ids"]]).long()
        ids = torch.cat([inputs["input_ids"], more.view(1, -1)], 1)
        options = {"max_new_tokens": turn.max_new_tokens, "do_sample": False}
        with torch.no_grad(), inside(loaded, point, question):
            if said:
                loaded.model(**inputs, past_key_values=cache, use_cache=True)
                written = loaded.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **options
                )
            else:
                written = loaded.model.generate(**inputs, **options)
        said.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    return said


RECORDS = [
    {"id": "a", "correct": True, "skipped": False},
    {"id": "b", "correct": False, "skipped": False, "score": 0.3},
    {"id": "c", "correct": True, "skipped": False, "score": 0.6},
    {"id": "d", "correct": False, "skipped": False, "score": None},
]


def test_shares_are_averaged_and_unscored_answers_are_left_out():
    figures = summarize(RECORDS)
    assert (figures["n"], figures["correct"], figures["unscored"]) == (3, None, 1)
    assert figures["accuracy"] == pytest.approx((1 + 0.3 + 0.6) / 3)
    found = seeded_accuracy(np.array([[1, 0.3, 0.6]]))
    assert (figures["ci_low"], figures["ci_high"]) == pytest.approx((found.ci_low, found.ci_high))
    assert summarize(RECORDS[:1])["correct"] == 1
    assert "unscored" not in summarize(RECORDS[:1])


def test_stored_shares_are_columns_of_floats():
    stored = read_answers(RECORDS)
    assert stored.correct.dtype == np.float32
    assert stored.accuracy == pytest.approx((1 + 0.3 + 0.6) / 3)
    assert stored.skipped.tolist() == [False, False, False, True]
    whole = read_answers(RECORDS[:1])
    assert whole.correct.dtype == bool
    assert shared_correct([whole, stored]).tolist() == [[1], [1]]
    assert shared_correct([stored, stored]).tolist() == [pytest.approx([1, 0.3, 0.6])] * 2


def test_shares_of_right_and_wrong_have_wilsons_interval():
    assert share_interval(0.3, 0.3, 40) == pytest.approx(wilson_interval(12, 40))
    assert share_interval(0.5, 0.25, 40) == pytest.approx(wilson_interval(20, 40))  # all half right: no wider than that
    low, high = share_interval(0.5, 0.26, 40)
    assert high - low < wilson_interval(20, 40)[1] - wilson_interval(20, 40)[0]


def test_shares_are_compared_by_a_paired_bootstrap():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 11, (2, 60)) / 10
    other = np.clip(other + 0.12, 0, 1)
    differences = one - other
    means = differences[draw.integers(0, 60, (20_000, 60))].mean(1)
    by_hand = 2 * min((means <= 0).mean(), (means >= 0).mean())
    assert paired_bootstrap_p(differences) == pytest.approx(by_hand, abs=0.015)
    assert compare_seeds(one[None], other[None]).p_value == paired_bootstrap_p(differences)
    assert paired_bootstrap_p(-differences) == pytest.approx(paired_bootstrap_p(differences), abs=0.01)
    assert paired_bootstrap_p(np.zeros(9)) == 1
    assert paired_bootstrap_p(np.full(9, 0.1)) < 0.001
    with pytest.raises(TokenselError, match="right or wrong"):
        mcnemar_exact(one, other)
