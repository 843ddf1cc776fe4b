"""The folders that stand in for benchmarks' data sets have their layout and columns."""

import ast

import datasets
import pytest
import yaml
from lmms_folders import TASKS, write_folder


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(task, folder, configuration=None):
    return datasets.load_dataset(str(write_folder(task, folder / task, 6)), configuration)


def test_gqa_has_its_questions_and_pictures_in_two_configurations(tmp_path):
    questions = load("gqa", tmp_path, "testdev_balanced_instructions")["testdev"]
    pictures = load("gqa", tmp_path, "testdev_balanced_images")["testdev"]
    assert [each["imageId"] for each in questions] == pictures["id"]
    assert pictures[0]["image"].size == (336, 336)
    assert questions[0]["answer"] in ("teal", "gray", "green", "red")


def test_mmmu_has_several_pictures_and_its_options_as_a_text(tmp_path):
    documents = load("mmmu_val", tmp_path)["validation"]
    several = [each["id"] for each in documents if each["image_2"] is not None]
    assert several == ["validation_Art_6"]
    assert "<image 2>" in documents[5]["question"]
    assert documents[3]["question_type"] == "open"
    assert isinstance(ast.literal_eval(documents[0]["options"]), list)
    assert documents.features["image_7"] == datasets.Image()


def test_every_turn_of_mmbench_moves_the_right_choice_to_another_letter(tmp_path):
    documents = load("mmbench_en_dev", tmp_path, "en")["dev"]
    first = [each for each in documents if each["index"] % 1_000_000 == 0]
    assert len({each["answer"] for each in first}) == len(first) == 4
    assert len({each[each["answer"]] for each in first}) == 1


def test_mme_asks_two_questions_about_each_picture(tmp_path):
    documents = load("mme", tmp_path)["test"]
    assert documents["answer"] == ["Yes", "No"] * 3
    assert documents["question_id"][::2] == documents["question_id"][1::2]


def test_ten_people_answer_textvqa_and_do_not_always_agree(tmp_path):
    documents = load("textvqa_val", tmp_path)["validation"]
    assert {len(each) for each in documents["answers"]} == {10}
    assert {len(set(each)) for each in documents["answers"]} == {1, 4}
    assert documents.features["question_id"] == datasets.Value("int32")


@pytest.mark.slow
def test_every_folder_has_as_many_documents_as_asked_for(tmp_path):
    counts = {}
    for task, parts in TASKS.items():
        folder = write_folder(task, tmp_path / task, 6)
        card = yaml.safe_load((folder / "README.md").read_text().strip("-\n"))
        assert [each["config_name"] for each in card["configs"]] == [part.configuration or "default" for part in parts]
        counts[task] = {len(list(part.rows(6))) for part in parts}
    # Two sentences describe one picture of RefCOCO; lmms-eval makes a document of each.
    assert counts == {task: {6} for task in TASKS} | {"refcoco_bbox_rec_val": {3}}


def test_task_files_of_ones_own_name_the_folder(tmp_path):
    folder = write_folder("shapes", tmp_path / "shapes", 2)
    task = yaml.safe_load((folder / "shapes_choice.yaml").read_text())
    assert (task["task"], task["dataset_path"]) == ("shapes_choice", str(folder))
