"""Settings for every test: one thread (small tensors gain nothing from two), quiet and repeatable hypothesis."""

import gc
import os

gc.disable()  # until all is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("tokensel", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("tokensel")

# Files that take longest, so that no worker begins one when the other is nearly done.
LONGEST = ("test_sweep", "test_notebooks", "test_families", "test_matrix", "test_cached", "test_tiny", "test_infer")


def pytest_collection_modifyitems(items):
    def place(item):
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not walk it again and again, nor look so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()
