"""Makes a sweep's folder with random answers, and measures how the store and the readers cope with its size.

    python scripts/large_folder.py --points 20 --questions 500000 /tmp/large

Prints for each step, which runs in a process of its own, the seconds it took, the processor's seconds and the peak
memory. The steps: append (batches of 8 questions through PointStore, for every point in turn, as a sweep does), reopen
(the stored ids of all points at once), figures (metrics.json of every point), cache (results.parquet), table and report
(the commands). 10 million predictions take 1.4 GB of disk. A folder that exists is read without being filled again.

    --batch   questions in one append; each append waits until the disk has it
    --steps   only these, with commas between them
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokensel.evaluation.question_ids import ids_digest
from tokensel.evaluation.store import PointStore, point_key
from tokensel.evaluation.summary import summarize

STEPS = ("append", "reopen", "figures", "cache", "table", "report")
COSTS = {"full": 1.0, "no_image": 0.1}


def settings(count: int) -> list[dict[str, Any]]:
    """Settings of `count` points: full, no_image, then fastv, fps, tome and three seeds of random at each kept."""
    found: list[tuple[str, int | None, int | None]] = [("full", None, None), ("no_image", None, None)]
    for step in range(count):
        kept = 8 * (step + 1)
        found += [("fastv", kept, None), ("fps", kept, None), ("tome", kept, None)]
        found += [("random", kept, seed) for seed in range(3)]
    shared = {
        "model": {"revision": "none", "dtype": "float32", "path": "random-answers"},
        "data": {"name": "large", "options": {}, "digest": "none"},
        "scoring": "letter",
        "protocol": {"prompt": "llava", "conv": "model", "image_aspect": "pad", "reading": None},
        "agg_layer": 2,
        "layout": "compact",
        "code": "none",
    }
    return [shared | {"method": method, "kept": kept, "seed": seed} for method, kept, seed in found[:count]]


def stores(folder: Path, count: int) -> list[PointStore]:
    """The points' stores, in the order of `settings`."""
    return [PointStore(folder / point_key(each)) for each in settings(count)]


def answers(numbers: range, point: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Random predictions of a point for these questions."""
    for number in numbers:
        answer, right = number % 4, draw.random() < 0.5 + 0.01 * point
        record = {"id": f"gqa/testdev/{201307251 + number}", "answer": answer, "correct": right, "skipped": False}
        record |= {"prediction": answer if right else (answer + 1) % 4, "margin": round(8 * draw.random(), 6)}
        yield record | {"tied_choice": False} | ({"positions": list(range(0, 576, 72))} if number < 8 else {})


def append(args: argparse.Namespace) -> None:
    draw = random.Random(0)
    opened = stores(args.folder, args.points)
    for store, each in zip(opened, settings(args.points), strict=True):
        store.write_config(each)
    for begin in range(0, args.questions, args.batch):
        numbers = range(begin, min(args.questions, begin + args.batch))
        for point, store in enumerate(opened):
            store.append(answers(numbers, point, draw))


def reopen(args: argparse.Namespace) -> None:
    done = [store.done_ids() for store in stores(args.folder, args.points)]
    assert all(len(ids) == args.questions for ids in done)


def figures(args: argparse.Namespace) -> None:
    digest = ids_digest(f"gqa/testdev/{201307251 + number}" for number in range(args.questions))
    for store, each in zip(stores(args.folder, args.points), settings(args.points), strict=True):
        cost = COSTS.get(each["method"], 0.1 + (each["kept"] or 0) / 640)
        costs = {"flops_ratio": cost, "chance": 0.25, "questions": digest, "key": store.folder.name}
        store.write_metrics({**each, **summarize(store.each_prediction()), **costs})


def cache(args: argparse.Namespace) -> None:
    from analysis.cache import write_cache
    from tokensel.evaluation.sweep.rows import folder_rows

    write_cache(folder_rows(args.folder), args.folder)


def measure(name: str, command: list[str]) -> None:
    """Runs a command; prints how long it took, the processor's time, and its peak memory."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name}: failed")
    seconds, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
    print(f"{name:8} {seconds:8.1f} s {cpu:8.1f} s CPU {used.ru_maxrss / 1024:8.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--questions", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", default="")
    parser.add_argument("--inside", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        globals()[args.inside](args)
        return
    steps = args.steps.split(",") if args.steps else STEPS[1:] if args.folder.exists() else STEPS
    for name in steps:
        if name in ("table", "report"):
            measure(name, [sys.executable, "-m", f"runners.{name}", str(args.folder)])
        else:
            measure(name, [sys.executable, *sys.argv, "--inside", name])


if __name__ == "__main__":
    main()
