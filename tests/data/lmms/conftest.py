"""Local copies of data sets in the schema of those that lmms-eval's tasks read, and lmms-eval's own evaluator."""

import datasets
import pytest
from lmms_folders import write_folder


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
