"""Local copies of data sets in the schema of those that lmms-eval's tasks read, and tasks of one's own."""

import datasets
import pytest
import yaml
from helpers.lmms import dataset, rows
from lmms_folders import write_folder

from tokensel.data import load_questions


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A function that gives the folder of a task's data set; its parent has one for each task asked for."""
    root = tmp_path_factory.mktemp("lmms")
    cache, bars = datasets.config.HF_DATASETS_CACHE, datasets.are_progress_bars_disabled()
    datasets.config.HF_DATASETS_CACHE = root / "cache"
    datasets.disable_progress_bars()

    def folder(task, count=8):
        place = root / f"{count}" / task
        return place if place.is_dir() else write_folder(task, place, count)

    yield folder
    datasets.config.HF_DATASETS_CACHE = cache
    if not bars:
        datasets.enable_progress_bars()


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
