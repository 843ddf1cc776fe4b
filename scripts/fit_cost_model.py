"""What a sweep costs: start-up, seconds for a question, and seconds for a question at one more point.

    python scripts/fit_cost_model.py

Runs small sweeps on the embedded model with one worker of one thread, and fits processor seconds (driver and worker) to
start-up + questions x (shared + points x own). Prints the figures, and how far each run is from the fit.
"""

import os
import resource
import subprocess
import sys
import tempfile

import numpy as np

# (questions, values of kept): points are full, no_image, and fps at each kept.
RUNS = [(24, 2), (24, 10), (96, 2), (96, 10)]
KEPT = [4, 8, 12, 16, 24, 32, 40, 48, 56, 64]


def processor_seconds(questions: int, points: int) -> float:
    """Of one sweep, with all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "runners.sweep", "method=fps", "controls=[full,no_image]", "latency.repeats=0"]
        command += [f"kept={','.join(map(str, KEPT[:points]))}", f"limit={questions}", "logger=none", "--multirun"]
        command += ["workers=local", "workers.count=1", f"output_dir={folder}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    measured = [(questions, points + 2, processor_seconds(questions, points)) for questions, points in RUNS]
    terms = np.array([(1, questions, questions * points) for questions, points, _ in measured], float)
    seconds = np.array([each for *_, each in measured])
    (start, shared, own), *_ = np.linalg.lstsq(terms, seconds, rcond=None)
    print(f"start-up {start:.1f} s; each question {1000 * shared:.0f} ms, and {1000 * own:.1f} ms at each point")
    for (questions, points, found), fitted in zip(measured, terms @ (start, shared, own), strict=True):
        print(f"{questions:4} questions x {points:2} points: {found:6.1f} s measured, {fitted:6.1f} s by the fit")


if __name__ == "__main__":
    main()
