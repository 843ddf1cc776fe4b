"""Compares a sweep over lmms-eval's tasks with lmms-eval itself, which runs the model `tokensel`.

    python scripts/lmms_folders.py FOLDER
    python scripts/compare_with_lmms_eval.py FOLDER OUTPUT [TASK ...]

FOLDER holds a data set for each task and the model, as lmms_folders.py makes them. OUTPUT receives the sweep, with all
points of a task in one pass; then lmms-eval answers the same documents at some of these points. Prints for each task
how many answers are equal, and the largest difference of the task's own scores, as a table in Markdown. Returns 1 where
an answer or a score differs. A quarter of an hour on two cores.

    --points N   how many of the sweep's points lmms-eval repeats; the first is the full model, the last random
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# A judge that a task asks about an answer that it cannot read; nobody answers there.
os.environ["OPENAI_API_URL"] = "http://127.0.0.1:9/"

PLACES = {  # where lmms-eval 0.7.3 looks for the data sets, and the tasks' names
    "pope": "POPE", "gqa": "GQA", "textvqa_val": "textvqa", "scienceqa_img": "ScienceQA", "mmbench_en_dev": "MMBench",
    "seedbench": "SEED-Bench", "ai2d": "ai2d", "chartqa": "ChartQA", "mme": "MME", "mmmu_val": "MMMU",
    "refcoco_bbox_rec_val": "RefCOCO", "vizwiz_vqa_val": "VizWiz-VQA", "vqav2_val": "VQAv2",
}  # fmt: skip
OWN = ("shapes_choice", "shapes_words")
GRID = ("kept=16,32,64,128", "method=fps,divprune", "control_seeds=1", "limit=null", "latency.repeats=0")
#: Settings, metrics and records by id.
Point = tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]
#: Differences of scores below this are rounding.
NEAR = 1e-9


@dataclass
class Comparison:
    """What was compared: documents and points, answers that are equal, and the scores' largest difference."""

    documents: int = 0
    points: int = 0
    equal: int = 0
    scores: int = 0
    difference: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether all answers and scores are the same."""
        return self.points > 0 and self.equal == self.documents * self.points and self.difference < NEAR


def sweep(tasks: Sequence[str], folder: Path, output: Path) -> None:
    """Runs the sweeps over these tasks."""
    own = [task for task in tasks if task in OWN]
    others = [task for task in tasks if task not in OWN]
    for name, some, place in (("own", own, f"include_path={folder}/shapes"), ("field", others, f"path={folder}")):
        if not some:
            continue
        # MMBench's score may ask a judge where an answer names no letter.
        data = ["data=lmms", f"data.task={','.join(some)}", f"data.{place}", "data.judge=true"]
        command = [sys.executable, "-m", "runners.sweep", *data, f"model.path={folder}/tiny", "model.device=cpu", *GRID]
        places = ["logger=none", f"output_dir={output}", f"name={name}"]
        subprocess.run([*command, *places, "--multirun"], check=True, stdout=sys.stderr)


def stored_points(output: Path, task: str) -> list[Point]:
    """The points of a task: of each its settings, its metrics and its records by id. The full model comes first."""
    found = []
    for file in sorted(output.glob("*/*/config.yaml")):
        settings = yaml.safe_load(file.read_text())
        if settings["data"]["options"]["task"] != task:
            continue
        records = [json.loads(line) for line in (file.parent / "predictions.jsonl").read_text().splitlines()]
        metrics = json.loads((file.parent / "metrics.json").read_text())
        found.append((settings, metrics, {each["id"]: each for each in records}))
    return sorted(found, key=lambda point: (point[0]["method"] != "full", point[0]["method"], point[0]["kept"] or 0))


def options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A point's settings as the options of the model `tokensel`."""
    names = ("method", "kept", "agg_layer", "temperature", "aggregation", "layout", "position", "seed")
    given = {name: settings[name] for name in names if settings[name] is not None}
    own = {f"method.{name}": value for name, value in settings["method_options"].items()}
    return {"pretrained": settings["model"]["path"], "dtype": settings["model"]["dtype"], "device": "cpu"} | given | own


@contextmanager
def data_in_place(folder: Path) -> Iterator[None]:
    """A current directory in which lmms-eval finds the data sets where its tasks look for them."""
    with tempfile.TemporaryDirectory() as place, chdir(place):
        Path("lmms-lab-encoder").mkdir()
        for task, name in PLACES.items():
            Path("lmms-lab-encoder", name).symlink_to(folder / task)
        yield


def by_lmms_eval(tasks: Sequence[str], given: Mapping[str, Any], manager: Any) -> dict[str, Any]:
    """What lmms-eval says of these tasks with the model `tokensel`."""
    from lmms_eval.evaluator import simple_evaluate

    from tokensel.compat.lmms_eval.model import Tokensel

    with redirect_stdout(sys.stderr):
        model = Tokensel(batch_size=8, **given)
        return simple_evaluate(
            model=model, tasks=list(tasks), task_manager=manager, log_samples=True, bootstrap_iters=0
        )


def compare(tasks: Sequence[str], folder: Path, output: Path, count: int) -> dict[str, Comparison]:
    """Compares the sweep's points with lmms-eval, task by task."""
    from lmms_eval.tasks import TaskManager

    found = {task: Comparison() for task in tasks}
    stored = {task: stored_points(output, task) for task in tasks}
    most = max(map(len, stored.values()))
    manager = TaskManager("ERROR", include_path=str(folder / "shapes"), model_name="tokensel")
    with data_in_place(folder):
        for number in sorted({round(step * (most - 1) / max(1, count - 1)) for step in range(count)}):
            result = by_lmms_eval(tasks, options(stored[tasks[0]][number][0]), manager)
            for task in tasks:
                point = stored[task][number]
                assert options(point[0]) == options(stored[tasks[0]][number][0]), f"{output}: must be a new folder"
                add(found[task], task, point, result)
    return found


def add(found: Comparison, task: str, point: Point, result: Mapping[str, Any]) -> None:
    """Compares one point of a task."""
    _, metrics, records = point
    found.points += 1
    found.documents = len(records)
    found.equal += sum(is_equal(records[f"{task}-{each['doc_id']}"], each["resps"]) for each in result["samples"][task])
    for name, theirs in scores(result["results"][task]):
        ours = metrics["benchmark"].get(name, metrics["benchmark"].get(name.partition(",")[0]))
        found.scores += 1
        found.difference = max(found.difference, abs(ours - theirs) if ours is not None else float("inf"))


def is_equal(record: Mapping[str, Any], said: list[Any]) -> bool:
    """Whether a stored record and lmms-eval's responses to the same document say the same."""
    if "text" in record:
        return record["text"] == said[0][0]
    losses = [each[0][0] for each in said]
    return record["prediction"] == losses.index(min(losses))


def scores(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers among a task's results, by "METRIC,FILTER"."""
    for name, value in results.items():
        if "," in name and "_stderr" not in name and isinstance(value, Real):
            yield name, float(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).absolute())
    parser.add_argument("output", type=lambda text: Path(text).absolute())
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument("--points", type=int, default=3)
    args = parser.parse_args()
    # `datasets` takes a folder for one that it has read before if their names are the same.
    os.environ["HF_DATASETS_CACHE"] = str(args.output / "datasets")
    silence()
    tasks = args.tasks or [*PLACES, *OWN]
    sweep(tasks, args.folder, args.output)
    found = compare(tasks, args.folder, args.output, args.points)
    print("| task | documents | points | equal answers | scores | largest difference |\n|---|---|---|---|---|---|")
    for task, each in found.items():
        equal = f"{each.equal} of {each.documents * each.points}"
        print(f"| {task} | {each.documents} | {each.points} | {equal} | {each.scores} | {each.difference:.1g} |")
    return 0 if all(each.agrees for each in found.values()) else 1


def silence() -> None:
    """lmms-eval's log shows errors only."""
    import datasets
    from loguru import logger

    datasets.disable_progress_bars()
    logger.remove()
    logger.add(sys.stderr, level="ERROR")


if __name__ == "__main__":
    sys.exit(main())
