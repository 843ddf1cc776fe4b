"""Settings for every test: one thread, because small tensors gain nothing from two, and repeatable hypothesis."""

import gc
import os

gc.disable()  # until everything is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("tokensel", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("tokensel")

# The slowest files run first, so that no worker begins one when the other is nearly done.
LONGEST = (
    "test_sweep",
    "test_generation",
    "test_cached",
    "test_families",
    "test_matrix",
    "test_notebooks",
    "test_infer",
    "test_train",
    "test_user_method",
)


def pytest_collection_modifyitems(items):
    def place(item):
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish():
    """Garbage is collected less often, and never among what the imports made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()
