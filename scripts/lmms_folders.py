"""Makes small data sets in the layout and with the columns of those that lmms-eval's tasks read.

    python scripts/lmms_folders.py FOLDER [TASK ...]

For each task, FOLDER/TASK receives its data set's Parquet files; without tasks, for all. Nothing is downloaded: the
pictures are the bundled diagrams and easy-VQA's, and the embedded model can answer many of the questions. With them a
machine without a network can try how a benchmark runs; their scores say nothing about the benchmark itself.

FOLDER/shapes also has two task files of its own, shapes_choice.yaml and shapes_words.yaml, as a user would write them.
FOLDER/tiny is the embedded model, with settings that end its answer after a word, as benchmarks expect it.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets import Dataset, Features, Image, List, Value
from lmms_documents import (
    Row,
    ai2d,
    chartqa,
    diagram_words,
    gqa_pictures,
    gqa_questions,
    mmbench,
    mme,
    mmmu,
    pope,
    refcoco,
    scienceqa,
    seedbench,
    shapes,
    textvqa,
    vizwiz,
    vqav2,
)
from tokenizers import Tokenizer

from tokensel.data.easy_vqa import ANSWERS
from tokensel.models.loading import EMBEDDED

TEXT, TEXTS, PICTURE = Value("string"), List(Value("string")), Image()
INTEGER, FLOATS = Value("int32"), List(Value("float32"))


@dataclass(frozen=True)
class Part:
    """One split of a data set.

    rows: makes so many of its rows. configuration: its name, "" where the data set has only one. types: of the columns
    whose values do not tell.
    """

    split: str
    rows: Callable[[int], Iterator[Row]]
    configuration: str = ""
    types: dict[str, Any] = field(default_factory=dict)


#: By lmms-eval's name of the task, as lmms-eval 0.7.3 reads them.
TASKS: dict[str, tuple[Part, ...]] = {
    "pope": (Part("test", pope),),
    "mme": (Part("test", mme),),
    "gqa": (
        Part("testdev", gqa_questions, "testdev_balanced_instructions", {"groups": {"global": TEXT, "local": TEXT}}),
        Part("testdev", gqa_pictures, "testdev_balanced_images"),
    ),
    "textvqa_val": (
        Part(
            "validation",
            textvqa,
            types={"question_id": INTEGER, "image_width": INTEGER, "image_height": INTEGER, "ocr_tokens": TEXTS},
        ),
    ),
    "vizwiz_vqa_val": (Part("val", vizwiz),),
    "vqav2_val": (Part("validation", vqav2),),
    "scienceqa_img": (Part("test", scienceqa, "ScienceQA-IMG", {"answer": Value("int8")}),),
    "mmbench_en_dev": (Part("dev", mmbench, "en"),),
    "seedbench": (Part("test", seedbench, types={"question_type_id": Value("int16")}),),
    "ai2d": (Part("test", ai2d),),
    "chartqa": (Part("test", chartqa),),
    "mmmu_val": (Part("validation", mmmu, types={f"image_{k}": PICTURE for k in range(1, 8)}),),
    "refcoco_bbox_rec_val": (
        Part("val", refcoco, types={"bbox": FLOATS, "segmentation": FLOATS, "iscrowd": Value("int8")}),
    ),
    "shapes": (Part("test", shapes),),
}
#: Task files of the data set "shapes", without its place.
OWN_TASKS: dict[str, dict[str, Any]] = {
    "shapes_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "shapes_words": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "word",
        "generation_kwargs": {"max_new_tokens": 4, "until": ["\n"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def write_folder(task: str, folder: Path, count: int = 24) -> Path:
    """Writes a data set in the schema of an lmms-eval task's, with about `count` documents; returns its folder.

    Raises KeyError for a task that is not in TASKS.
    """
    folder = Path(folder)
    configurations = []
    for part in TASKS[task]:
        place = Path(part.configuration or "data") / f"{part.split}-00000-of-00001.parquet"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        typed(list(part.rows(count)), part.types).to_parquet(folder / place)
        files = [{"split": part.split, "path": f"{place.parent}/{part.split}-*"}]
        configurations.append({"config_name": part.configuration or "default", "data_files": files})
    card = yaml.safe_dump({"configs": configurations}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
    for name, rules in OWN_TASKS.items() if task == "shapes" else ():
        place = {"task": name, "dataset_path": str(folder.absolute()), "test_split": "test", "doc_to_visual": "image"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(place | rules, sort_keys=False), encoding="utf-8")
    return folder


def typed(rows: list[Row], types: dict[str, Any]) -> Dataset:
    """The rows as a data set; what its values do not tell of a column's type, `types` does."""
    found = Dataset.from_list(rows)
    for name, example in rows[0].items():
        several = isinstance(example, list)
        if (example[:1] if several else [example]) and is_picture(example[0] if several else example):
            types = types | {name: List(PICTURE) if several else PICTURE}
    return found.cast(Features({**found.features, **types}))


def is_picture(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"bytes", "path"}


def write_model(folder: Path) -> Path:
    """Writes the embedded model with settings that end its answer after a word, too; returns its folder.

    It was trained to predict one token, the letter or the word, and does not know that an answer ends there: the
    letters that it comes with end an answer by its settings as well.
    """
    folder = Path(folder)
    shutil.copytree(EMBEDDED["tiny"], folder, dirs_exist_ok=True)
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = sorted({*(answer for kind in ANSWERS.values() for answer in kind), *diagram_words()})
    ends = [tokenizer.encode(f" {word}", add_special_tokens=False).ids[-1] for word in words]
    settings["eos_token_id"] = list(dict.fromkeys([*settings["eos_token_id"], *ends]))
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--count", type=int, default=24, help="documents of each data set")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    for task in args.tasks or TASKS:
        if task not in TASKS:
            parser.error(f"unknown task {task}; choose from {', '.join(TASKS)}")
        print(write_folder(task, args.folder / task, args.count))
    print(write_model(args.folder / "tiny"))


if __name__ == "__main__":
    main()
