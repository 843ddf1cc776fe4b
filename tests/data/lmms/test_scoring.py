"""A task's answers are scored by its own code, without network, files or waits, and kept as JSON."""

import random
import time

import numpy as np
import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/lmms_eval.md says how")

from helpers.lmms import scores

from tokensel.data import load_questions
from tokensel.errors import TokenselError


def test_the_share_is_the_first_metrics_and_lists_and_numpys_numbers_become_json(own):
    code = """
import numpy as np
def score(doc, results):
    right = np.float32(doc["answer"] == results[0])
    return {"points": 7.5, "half": {"score": right / 2, "seen": (np.int64(3), {1: None}), "image": doc}}
def most(values):
    return max(value["score"] for value in values)
"""
    metrics = [{"metric": name, "aggregation": "@code.most@", "higher_is_better": True} for name in ("points", "half")]
    question = own(code, process_results="@code.score@", metric_list=metrics)[2]
    share, kept = scores(question, "2")
    assert share == 0.5
    assert kept["none"]["half"]["seen"] == [3, {"1": None}]
    found = question.benchmark.figures([(question, kept)])
    assert found["half"] == 0.5
    assert found["left_out"] == {"points": "could not be computed (TypeError: 'float' object is not subscriptable)"}


def test_a_guess_depends_on_the_question_alone_and_disturbs_no_other_draw(own):
    code = """
import random
import numpy as np
def score(doc, results):
    return {"right": [random.random(), np.random.rand()]}
def mean(values):
    return sum(map(sum, values)) / len(values) + random.random()
"""
    metrics = [{"metric": "right", "aggregation": "@code.mean@", "higher_is_better": True}]
    questions = own(code, process_results="@code.score@", metric_list=metrics)[:3]
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    kept = [scores(question, "unclear")[1] for question in questions]
    assert kept == [scores(question, "unclear")[1] for question in questions[::-1]][::-1]
    assert len({each["none"]["right"][place] for each in kept for place in (0, 1)}) == 6
    scored = list(zip(questions, kept, strict=True))
    assert questions[0].benchmark.figures(scored) == questions[0].benchmark.figures(scored)
    assert (random.random(), np.random.rand()) == expected


def test_a_share_can_come_from_the_aggregation_but_never_from_one_that_writes(own, tmp_path):
    code = """
import json
def score(doc, results):
    return {"told": results[0], "stored": results[0]}
def right(values):
    return sum(value == "yes" for value in values) / len(values)
def store(values):
    with open("PLACE", "w") as file:
        json.dump(values, file)
    return 1.0
""".replace("PLACE", str(tmp_path / "stored.json"))
    told = {"metric": "told", "aggregation": "@code.right@", "higher_is_better": True}
    stored = {"metric": "stored", "aggregation": "@code.store@", "higher_is_better": True}
    question = own(code, process_results="@code.score@", metric_list=[stored, told])[0]
    share, kept = scores(question, "yes")
    assert share == 1.0
    assert scores(question, "no")[0] == 0.0
    found = question.benchmark.figures([(question, kept)])
    assert found == {"told": 1.0, "left_out": {"stored": "is a file to submit, which only lmms-eval writes"}}
    assert not (tmp_path / "stored.json").exists()


def test_filters_and_reasoning_are_applied_first(own):
    question = own(
        filter_list=[
            {
                "name": "number",
                "filter": [{"function": "regex", "regex_pattern": "is ([0-9])"}, {"function": "take_first"}],
            }
        ]
    )[3]
    assert scores(question, "<think>is 2</think> It is 3.")[1] == {"number": {"exact_match": 0.0}}
    assert scores(question, "It is 3.")[0] == 1.0
    assert scores(own()[3], "<think>is it 2?</think> 3")[0] == 1.0


def test_a_judge_is_found_in_the_code_and_asked_only_on_demand(own):
    code = """
import requests
class Judge:
    def ask(self, text):
        return self.post(text)
    def post(self, text):
        return requests.post("http://localhost", json=text).json()
judge = Judge()
def score(doc, results):
    return {"judged": [judge.ask(each) for each in results]}
def mean(values):
    return 1.0
def judged(values):
    return judge.ask(values)
def plain(doc, results):
    return {"judged": results[0], "plain": 1.0}
"""
    judged = {"metric": "judged", "aggregation": "@code.mean@", "higher_is_better": True}
    with pytest.raises(
        TokenselError, match=r"^data.task=mine: a judge on the network \(requests\) scores it; set data"
    ):
        own(code, process_results="@code.score@", metric_list=[judged])
    metrics = [judged | {"aggregation": "@code.judged@"}, judged | {"metric": "plain"}]
    question = own(code, process_results="@code.plain@", metric_list=metrics)[0]
    share, kept = scores(question, "1")
    assert share == 1.0
    assert question.benchmark.figures([(question, kept)]) == {
        "plain": 1.0,
        "left_out": {"judged": "a judge on the network (requests) scores it; data.judge=true asks it"},
    }
    assert own(code, option={"judge": True}, process_results="@code.score@", metric_list=[judged])


def test_failing_code_of_a_task_is_named_at_once(own):
    code = "def score(doc, results):\n    raise KeyError('label')\n"
    question = own(code, process_results="@code.score@")[1]
    begin = time.monotonic()
    with pytest.raises(
        TokenselError, match=r"question mine-1: process_results of data.task=mine failed \(KeyError: 'la"
    ):
        scores(question, "1")
    assert time.monotonic() - begin < 1


def test_mmbench_counts_what_its_rule_cannot_read_as_wrong(folders, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits for a judge"))
    folder = folders("mmbench_en_dev")
    questions = load_questions("lmms", task="mmbench_en_dev", path=str(folder))
    # Every question stands there in four orders of its choices, and counts if all four are right.
    answers = [each.benchmark.task.eval_docs_no_media[k]["answer"] for k, each in enumerate(questions)]
    shares, scored = zip(*[scores(each, said) for each, said in zip(questions, answers, strict=True)], strict=True)
    assert set(shares) == {1.0}
    found = questions[0].benchmark.figures(list(zip(questions, scored, strict=True)))
    assert (found["gpt_eval_score"], found.get("notes")) == (100.0, None)
    share, unclear = scores(questions[0], "I cannot see it")
    assert share == 0.0
    found = questions[0].benchmark.figures(list(zip(questions, (unclear, *scored[1:]), strict=True)))
    assert found["gpt_eval_score"] == 50.0
    assert found["notes"]["gpt_eval_score"].startswith("1 of 8 answers name no choice by rule")


def test_boxes_count_from_an_overlap_of_half(folders):
    question = load_questions("lmms", task="refcoco_bbox_rec_val", path=str(folders("refcoco_bbox_rec_val")))[0]
    left, top, right, bottom = question.benchmark.task.eval_docs_no_media[0]["bbox"]
    assert scores(question, f"[{left:.4f}, {top:.4f}, {right:.4f}, {bottom:.4f}]")[0] == 1.0
    middle = (left + right) / 2
    assert scores(question, f"[{left:.4f}, {top:.4f}, {middle + 0.01:.4f}, {bottom:.4f}]")[0] == 1.0
    assert scores(question, f"[{left:.4f}, {top:.4f}, {middle - 0.01:.4f}, {bottom:.4f}]")[0] == 0.0
    assert scores(question, "the left one")[0] == 0.0


def test_options_are_continuations_with_the_tasks_delimiter(folders):
    folder = str(folders("shapes"))
    question = load_questions("lmms", task="shapes_choice", path=folder, include_path=folder)[0]
    document = question.benchmark.task.eval_docs_no_media[0]
    assert (question.form, question.choices) == ("options", tuple(f" {choice}" for choice in document["choices"]))
    right = document["answer"]
    said = [(0.5 if k == right else 2.0, False) for k in range(4)]
    assert scores(question, said) == (1.0, {"none": {"acc": 1.0}})


def test_the_digest_follows_the_tasks_settings_code_and_scoring(own):
    code = "def score(doc, results):\n    return {'exact_match': 1.0}\n"
    digests = [
        own()[0].benchmark.digest,
        own(generation_kwargs={"max_new_tokens": 5})[0].benchmark.digest,
        own(code, process_results="@code.score@")[0].benchmark.digest,
        own(f"{code}# changed\n", process_results="@code.score@")[0].benchmark.digest,
        own(option={"metric": "exact_match"})[0].benchmark.digest,
    ]
    assert len(set(digests)) == 5
    assert own()[0].benchmark.digest == digests[0]
