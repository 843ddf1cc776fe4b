"""Real workers, each in processes of its own, answer as one process does: of this machine, of Ray, of submitit.

A killed driver is the same for all of them, and killed with workers of this machine only.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GRID = ["kept=4", "method=fps", "controls=[full]", "limit=32", "batch_size=2", "logger=none", "latency.repeats=1"]
ENGINES = {
    "local": ([], "tokensel.evaluation.workers.local"),
    "ray": ([], "ray::Actor"),
    "slurm": (["workers.cluster=local"], "submitit.core._submit"),
}
LIBRARIES = {"ray": "ray", "slurm": "submitit"}

pytestmark = pytest.mark.slow


def start(folder, *more):
    command = [sys.executable, "-m", "runners.sweep", *GRID, f"output_dir={folder}", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def stored(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("sweep/*/predictions.jsonl")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    process = start(folder, "latency.repeats=0")
    assert process.communicate()[1] is not None
    assert process.returncode == 0
    return stored(folder)


def workers(pattern):
    """The processes of workers that this machine runs now."""
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False).stdout.split()
    return [int(each) for each in found]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_worker_and_a_killed_driver_change_no_byte(engine, expected, tmp_path):
    if engine in LIBRARIES and importlib.util.find_spec(LIBRARIES[engine]) is None:
        pytest.skip(f"{LIBRARIES[engine]} is not installed")
    options, pattern = ENGINES[engine]
    options = [f"workers={engine}", "workers.count=2", *options]
    before = workers(pattern)
    process = start(tmp_path, *options)

    def answers():
        return sum(content.count(b"\n") for content in stored(tmp_path).values())

    def wait_for(count):
        until = time.monotonic() + 120
        while answers() < count and process.poll() is None:
            assert time.monotonic() < until, process.stderr.read()
            time.sleep(0.05)

    wait_for(6)
    os.kill(next(each for each in workers(pattern) if each not in before), signal.SIGKILL)
    if engine == "local":
        wait_for(28)
        process.kill()
        process.communicate()
        process = start(tmp_path, *options)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors
    assert stored(tmp_path) == expected
