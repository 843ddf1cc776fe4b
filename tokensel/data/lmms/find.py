"""A task of lmms-eval by name: its configuration, or one line that says why it cannot be asked here."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmms_eval
from lmms_eval.utils import load_yaml_config

from tokensel.data.hub import local_folder
from tokensel.errors import TokenselError, first_line, meant

_OTHER_FORMS = {
    "generate_until_multi_round": "its questions depend on earlier answers",
    "generate_until_agentic": "its answers call tools",
    "generate_visual_cot": "its answers contain pictures",
}
# Of a group or tag in a message.
_MOST_MEMBERS = 12


def find_config(task: str, include_path: str | None) -> dict[str, Any]:
    """The configuration of a task among lmms-eval's own and those of a folder.

    lmms-eval's `TaskManager` parses all 1900 of its files for each look-up, which takes many seconds. Here only files
    that name the task are parsed; where that finds not exactly one, the manager decides.

    Raises TokenselError for an unknown name (with the closest one), a group, and a task whose code cannot be imported.
    """
    folders = [Path(lmms_eval.__file__).parent / "tasks"]
    if include_path is not None:
        own = local_folder(include_path)
        if own is None:
            raise TokenselError(f"data.include_path={include_path}: no such folder; set it to one with task YAMLs")
        folders.append(own)
    files = [file for folder in folders for file in _naming(task, folder)]
    file = files[0] if len(files) == 1 else _by_manager(task, [str(folder) for folder in folders[1:]])
    try:
        return load_yaml_config(str(file), mode="full")
    except Exception as error:  # the task's own code is imported
        missing = f": pip install {error.name}" if isinstance(error, ModuleNotFoundError) else ""
        raise TokenselError(
            f"data.task={task}: its code cannot be imported ({type(error).__name__}: {first_line(error)}){missing}"
        ) from error


def check_form(task: str, config: dict[str, Any]) -> None:
    """Raises TokenselError for a task that no single answer about pictures can serve."""
    form = config.get("output_type") or "generate_until"
    if "class" in config:
        _refuse(task, "is a Python class of its own; only tasks written as YAML can be asked")
    if form in _OTHER_FORMS:
        _refuse(task, f"output_type={form}: {_OTHER_FORMS[form]}, which is not supported")
    if form == "loglikelihood" and config.get("process_results") is None:
        _refuse(task, "output_type=loglikelihood without process_results: lmms-eval itself cannot score it")
    if (config.get("repeats") or 1) > 1:
        _refuse(task, f"repeats={config['repeats']}: asks for several samples; only greedy decoding is supported")
    media = [key for key in ("video", "From_YouTube") if (config.get("dataset_kwargs") or {}).get(key)]
    if media:
        _refuse(task, "shows videos, which are not supported")
    if any(metric.get("metric") == "acc_mutual_info" for metric in config.get("metric_list") or ()):
        _refuse(task, "metric acc_mutual_info needs likelihoods without the question, which are not supported")


def _naming(task: str, folder: Path) -> Iterator[Path]:
    """The task files that seem to define the task."""
    line = re.compile(rf"^task: *([\"']?){re.escape(task)}\1 *(#.*)?$", re.MULTILINE)
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each not in ("__pycache__", ".ipynb_checkpoints"))
        for name in sorted(names):
            file = Path(root, name)
            if name.endswith(".yaml") and line.search(file.read_text(encoding="utf-8", errors="replace")):
                yield file


def _by_manager(task: str, folders: list[str]) -> Path:
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=folders or None)
    entry = manager.task_index.get(task)
    if entry is None:
        raise TokenselError(f"data.task={task}: lmms-eval has no such task{meant(task, manager.all_subtasks)}")
    if entry["type"] in ("group", "tag"):
        members = entry["task"]
        if members == -1:
            group = load_yaml_config(entry["yaml_path"], mode="simple")
            members = [each if isinstance(each, str) else str(each.get("task")) for each in group["task"]]
        more = f", ... ({len(members)} in all)" if len(members) > _MOST_MEMBERS else ""
        listed = ",".join(members[:_MOST_MEMBERS]) + more
        raise TokenselError(f"data.task={task}: is a group of tasks; name some of them: data.task={listed}")
    return Path(entry["yaml_path"])


def _refuse(task: str, reason: str) -> None:
    raise TokenselError(f"data.task={task}: {reason}")
