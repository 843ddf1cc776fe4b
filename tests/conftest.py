"""Settings for every test: repeatable hypothesis, and one thread unless OMP_NUM_THREADS says otherwise, because small
tensors gain nothing from two."""

import gc
import logging
import os
import sys
import tempfile
import zlib
from importlib import metadata
from pathlib import Path

import pytest

gc.disable()  # until everything is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for another keep no processor busy
if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
    # torch looks compiled graphs up without regard to the instructions they were compiled for.
    graphs = Path(tempfile.gettempdir(), f"torchinductor-tests-{capability}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(graphs))

# The slowest files run first, so that no worker begins one when the other is nearly done.
LONGEST = (
    "test_engines",
    "test_lmms_eval",
    "test_notebooks",
    "test_report_browser",
    "test_sweep",
    "test_wandb",
    "test_writing",
    "test_families",
    "test_placements",
    "test_published",
    "test_generation",
    "test_matrix",
    "test_conf",
    "test_infer",
    "test_crews",
    "test_forms",
    "test_bench",
    "test_counts",
    "test_user_method",
    "test_video",
    "test_reduce",
    "test_paired",
    "test_figures",
    "test_accuracy",
    "test_dashboard",
    "test_report",
    "test_independence",
    "test_clustering",
    "test_official",
    "test_results",
    "test_flops",
    "test_keys",
    "test_wrong_values",
    "test_show",
    "test_named",
    "test_store",
    "test_train",
)


def pytest_configure(config):
    if config.getoption("dist", "no") != "no":
        return  # this process hands the tests out and runs none: it need not wait for these imports
    from hypothesis import settings

    settings.register_profile("tokensel", deadline=None, max_examples=30, derandomize=True)
    settings.load_profile("tokensel")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    for item in items:
        # Of a large matrix, `pytest` runs a third, always the same one; `pytest -m slow` the others.
        if item.get_closest_marker("sampled") and zlib.crc32(item.name.encode()) % 3:
            item.add_marker(pytest.mark.slow)

    def place(item):
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish():
    """Garbage is collected less often, and never among what the imports made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()


class Logged(logging.Handler):
    """What was logged. pytest's own plugin for that costs a millisecond a test, as some libraries have hundreds of
    loggers."""

    def __init__(self):
        super().__init__()
        self.records, self.levels = [], {}

    def emit(self, record):
        record.message = record.getMessage()
        self.records.append(record)

    @property
    def messages(self):
        return [record.message for record in self.records]

    def set_level(self, level, logger):
        self.levels.setdefault(logger, logging.getLogger(logger).level)
        logging.getLogger(logger).setLevel(level)


@pytest.fixture
def caplog():
    logged, root = Logged(), logging.getLogger()
    root.addHandler(logged)
    yield logged
    root.removeHandler(logged)
    for name, level in logged.levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def undrawn(monkeypatch):
    """accuracy.png is empty: drawing it takes longer than a small sweep."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("analysis.figures.accuracy_over_kept", lambda frame: Figure((1, 1)))


@pytest.fixture(autouse=True, scope="session")
def packages_listed_once():
    """Listing what all installed packages offer takes as long as a small sweep."""
    plain, known = metadata.entry_points, {}

    def once(**wanted):
        key = (*sys.path, str(wanted))  # tests put a package of theirs into a folder of sys.path
        if key not in known:
            known[key] = plain(**wanted)
        return known[key]

    metadata.entry_points = once
    yield
    metadata.entry_points = plain


@pytest.fixture(autouse=True, scope="session")
def composed_once():
    """Hydra takes a tenth of a second to compose a choice of files; in one process the same choice gives the same."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    from runners.configuration import compose

    plain, known = compose._compose, {}

    def once(overrides, root, **options):
        folders = [each.path for each in GlobalHydra.instance().config_loader().get_search_path().get_path()]
        offered = {name: str(file.node) for name, file in ConfigStore.instance().repo.get("method", {}).items()}
        key = (root, *folders, *overrides, str(options), str(offered))  # offered: users' methods
        if any("searchpath" in override for override in overrides):  # a folder whose files a test may change
            return plain(overrides, root, **options)
        if key not in known:
            known[key] = plain(overrides, root, **options)
        return known[key]

    compose._compose = once
    yield
    compose._compose = plain
