"""Which tasks load from which folders, what is refused in one line, and what lmms-eval must not leave behind."""

import io
import json
import sys
import time

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image, ImageFile

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/lmms_eval.md says how")

from tokensel.data import load_questions
from tokensel.errors import BadSampleError, TokenselError


def rows(count=4):
    """Documents of which two neighbours show the same picture."""
    found = []
    for number in range(count):
        file = io.BytesIO()
        noise = np.random.default_rng(number // 2).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        picture = {"bytes": file.getvalue(), "path": None}
        found.append({"image": picture, "question": f"What is {number}?", "answer": str(number), "box": [0, 0, 5, 5]})
    return found


def dataset(documents):
    found = datasets.Dataset.from_list(documents)
    return found.cast_column("image", datasets.Image())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that writes a task of one's own, and loads its questions."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "data"
    (tmp_path / "tasks").mkdir()

    def load(code="", documents=None, option=None, **rules):
        if not data.exists():
            data.mkdir()
            dataset(documents or rows()).to_parquet(data / "test-00000-of-00001.parquet")
        known = {
            "task": "mine",
            "dataset_path": "nobody/nothing",
            "test_split": "test",
            "doc_to_visual": "image",
            "doc_to_text": "{{question}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
        text = yaml.safe_dump(known | rules)
        text = text.replace("'!function ", "!function ").replace(".py'", "")
        (tmp_path / "tasks" / "mine.yaml").write_text(text.replace("@'", "").replace("'@", "!function "))
        (tmp_path / "tasks" / "code.py").write_text(code)
        options = {"task": "mine", "path": str(data), "include_path": str(tmp_path / "tasks")} | (option or {})
        return load_questions("lmms", **options)

    return load


def scores(question, said):
    share, kept = question.benchmark.score(question, said)
    return share, json.loads(json.dumps(kept))


def test_documents_become_questions_with_their_numbers_and_the_tasks_words(own):
    questions = own(description="Look. ", generation_kwargs={"max_new_tokens": 7, "until": ["."]})
    assert [each.id for each in questions] == ["mine-0", "mine-1", "mine-2", "mine-3"]
    assert questions[1].text == "Look. What is 1?"
    assert (questions[1].form, questions[1].instruction, questions[1].split) == ("text", "", "test")
    assert (questions[1].max_new_tokens, questions[1].until) == (7, (".",))
    assert own(generation_kwargs={"max_new_tokens": 7}, option={"max_new_tokens": 3})[0].max_new_tokens == 3


def test_examples_stand_before_the_question_where_the_task_wants_some(own):
    examples = {"num_fewshot": 1, "fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}}
    assert own(**examples)[2].text == "What is 0? 0\n\nWhat is 2?"


def test_equal_pictures_have_one_id_unless_the_task_looks_at_more_of_the_document(own):
    ids = [each.image_id for each in own()]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    cut = "def cut(doc):\n    return [doc['image'].convert('RGB').crop(doc['box'])]\n"
    questions = own(cut, doc_to_visual="@code.cut@")
    assert [each.image_id for each in questions] == [each.id for each in questions]
    assert questions[0].load_image().size == (5, 5)


def test_a_broken_picture_is_an_error_of_its_question_only(own):
    documents = rows()
    documents[0]["image"] = {"bytes": documents[0]["image"]["bytes"][:500], "path": None}
    questions = own(documents=documents)
    assert questions[2].load_image().size == (20, 20)
    with pytest.raises(
        BadSampleError, match=r"question mine-0: picture in memory cannot be read \(image file is trunc"
    ):
        questions[0].load_image()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_several_pictures_are_counted_without_decoding_them(own, monkeypatch):
    twice = "def twice(doc):\n    return [doc['image'].convert('RGB')] * (1 + int(doc['answer']) % 2)\n"
    decoded = []
    monkeypatch.setattr(
        datasets.Image, "decode_example", lambda *_, **__: decoded.append(1) or Image.new("RGB", (3, 3))
    )
    questions = own(twice, doc_to_visual="@code.twice@")
    assert [len(each.pictures) for each in questions] == [1, 2, 1, 2]
    assert not decoded
    assert len(questions[1].load_images()) == 2


def test_a_question_without_pictures_has_none(own):
    assert own("def none(doc):\n    return []\n", doc_to_visual="@code.none@")[0].pictures == ()


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


@pytest.mark.parametrize("layout", ["split", "numbered", "folder", "configuration", "saved", "saved_split"])
def test_a_local_copy_may_lie_in_several_ways(own, tmp_path, layout):
    documents, place = dataset(rows(2)), tmp_path / "copy" / "mine"
    if layout == "saved":
        datasets.DatasetDict({"test": documents}).save_to_disk(place)
    elif layout == "saved_split":
        documents.save_to_disk(place)
    else:
        name = {"split": "test", "numbered": "data/test-00000-of-00001", "folder": "test/0", "configuration": "b/test"}
        file = place / f"{name[layout]}.parquet"
        file.parent.mkdir(parents=True)
        documents.to_parquet(file)
    questions = own(dataset_name="b", option={"path": str(tmp_path / "copy")})
    assert len(questions) == 2
    assert questions[1].load_image().size == (20, 20)


def test_a_changed_copy_is_read_anew(own, tmp_path):
    place = tmp_path / "copy"
    (place / "data").mkdir(parents=True)
    (place / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    )
    for count in (2, 4):
        dataset(rows(count)).to_parquet(place / "data" / "test-00000-of-00001.parquet")
        assert len(own(option={"path": str(place)})) == count


@pytest.mark.parametrize(
    ("option", "rules", "line"),
    [
        ({"path": "/nowhere"}, {}, "data.path=/nowhere: no such folder; set it to a local copy of the task's data set"),
        ({"include_path": "/nowhere"}, {}, "data.include_path=/nowhere: no such folder"),
        ({}, {"test_split": "val"}, r"data.path=.*data: has no split val; it has test"),
        ({"path": None}, {}, r"data.path=nobody/nothing: "),
        ({"metric": "f1"}, {}, "data.metric=f1: unknown; choose one of exact_match"),
        (
            {},
            {"generation_kwargs": {"temperature": 1, "do_sample": True}},
            "data.task=mine: generation_kwargs: do_sample",
        ),
        (
            {},
            {"output_type": "generate_until_multi_round"},
            "data.task=mine: output_type=generate_until_multi_round: its",
        ),
        ({}, {"repeats": 8}, "data.task=mine: repeats=8: asks for several samples; only greedy decoding is supported"),
        ({}, {"dataset_kwargs": {"video": True}}, "data.task=mine: shows videos, which are not supported"),
        ({}, {"doc_to_visual": "@code.film@"}, "data.task=mine: document 0 shows str instead of a picture; videos"),
        (
            {},
            {"doc_to_text": "{{label}}"},
            r"data.task=mine: cannot be loaded \(UndefinedError: 'label' is undefined\)",
        ),
        ({}, {"doc_to_text": "@code.lost@"}, "data.task=mine: its code cannot be imported"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line_within_seconds(own, option, rules, line):
    begin = time.monotonic()
    with pytest.raises(TokenselError, match=f"^{line}") as error:
        own("def film(doc):\n    return ['film.mp4']\n", option=option, **rules)
    assert "\n" not in str(error.value)
    assert time.monotonic() - begin < 10


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


def test_without_lmms_eval_the_commands_that_install_it_are_told(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("lmms_eval", "tokensel.data.lmms.questions"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    for name in ("find", "task", "scoring"):
        monkeypatch.delitem(sys.modules, f"tokensel.data.lmms.{name}", raising=False)
    with pytest.raises(
        TokenselError, match=r"^data=lmms: needs lmms-eval .*; install it by: pip install --no-deps lmms-"
    ):
        load_questions("lmms", task="pope")


def test_a_task_must_be_named():
    with pytest.raises(TokenselError, match=r"^data.task: data=lmms requires this option$"):
        load_questions("lmms", task=None)


@pytest.mark.slow
def test_unknown_names_and_groups_are_refused_by_lmms_evals_own_index():
    with pytest.raises(TokenselError, match=r"^data.task=popee: lmms-eval has no such task; did you mean pope\?$"):
        load_questions("lmms", task="popee")
    with pytest.raises(
        TokenselError, match=r"^data.task=mmmu: is a group of tasks; name some of them: data.task=mmmu_val"
    ):
        load_questions("lmms", task="mmmu")
