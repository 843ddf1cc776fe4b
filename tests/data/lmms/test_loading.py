"""Which tasks load from which folders, what is refused in one line, and what lmms-eval must not leave behind."""

import sys
import time

import datasets
import pytest
from PIL import Image, ImageFile

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/lmms_eval.md says how")

from helpers.lmms import dataset, rows

from tokensel.data import load_questions
from tokensel.errors import BadSampleError, TokenselError


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
