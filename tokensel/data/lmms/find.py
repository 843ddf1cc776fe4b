"""A task of lmms-eval by name: its configuration, or one line that says why it cannot be asked here."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmms_eval
import yaml
from lmms_eval.utils import load_yaml_config

from tokensel.data.hub import local_folder
from tokensel.errors import TokenselError, first_line, meant

_OTHER_FORMS = {
    "generate_until_multi_round": "its questions depend on earlier answers",
    "generate_until_agentic": "its answers call tools",
    "generate_visual_cot": "its answers contain pictures",
}
_TASK_LINE = re.compile(r"^[\"']?task[\"']? *: *[\"']?(?P<name>[^\s\"'#]+)[\"']? *(#.*)?$", re.MULTILINE)
# Of a group or tag in a message.
_MOST_MEMBERS = 12


def find_config(task: str, include_path: str | None) -> dict[str, Any]:
    """The configuration of a task among lmms-eval's own and those of a folder.

    lmms-eval's `TaskManager` parses all 1900 of its files for each look-up, which takes many seconds. Here only files
    that name the task are parsed; where that finds not exactly one, the manager decides.

    Raises TokenselError for an unknown name (with the closest one), a group, and a task whose code cannot be imported.
    """
    files = list(_installed().get(task, ()))
    if include_path is not None:
        folder = local_folder(include_path)
        if folder is None:
            raise TokenselError(f"data.include_path={include_path}: no such folder; set it to one with task YAMLs")
        files += _by_name(folder).get(task, ())
    file = files[0] if len(files) == 1 else _by_manager(task, include_path)
    try:
        return load_yaml_config(str(file), mode="full")
    except ModuleNotFoundError as error:
        raise TokenselError(f"data.task={task}: needs the module {error.name}, which is not installed") from error
    except Exception as error:  # the task's own code is imported
        raise TokenselError(
            f"data.task={task}: its code cannot be imported ({type(error).__name__}: {first_line(error)})"
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


@cache
def _installed() -> dict[str, list[Path]]:
    return _by_name(Path(lmms_eval.__file__).parent / "tasks")


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """The task files of a folder by the names that they seem to define."""
    found: dict[str, list[Path]] = {}
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each not in ("__pycache__", ".ipynb_checkpoints"))
        for file in (Path(root, name) for name in sorted(names) if name.endswith(".yaml")):
            for line in _TASK_LINE.finditer(file.read_text(encoding="utf-8", errors="replace")):
                found.setdefault(line["name"], []).append(file)
    return found


def _by_manager(task: str, include_path: str | None) -> Path:
    from lmms_eval.tasks import TaskManager

    with _fast_yaml():
        manager = TaskManager(include_path=None if include_path is None else os.path.expanduser(include_path))
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


@contextmanager
def _fast_yaml() -> Iterator[None]:
    """Parses YAML with libyaml in the block, where it is there: in a sixth of the time. Functions are not loaded."""
    loader = getattr(yaml, "CFullLoader", None)
    if loader is None:
        yield
        return

    class Loader(loader):  # type: ignore[misc, valid-type]
        pass

    Loader.add_constructor("!function", lambda *_: None)
    with patch.object(yaml, "FullLoader", Loader):
        yield


def _refuse(task: str, reason: str) -> None:
    raise TokenselError(f"data.task={task}: {reason}")
