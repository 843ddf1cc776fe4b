"""`python -m runners.sweep --help`: every setting and choice, from their one declaration and the files in conf/."""

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from runners.configuration.errors import group_names
from tokensel.evaluation.sweep.declaration import declaration
from tokensel.evaluation.sweep.groups import (
    AggregationSettings,
    LoggerSettings,
    MethodSettings,
    ModelSettings,
    WorkersSettings,
)
from tokensel.evaluation.sweep.reading import described

WIDEST = 100
HEADER = """\
Accuracy, time and memory of visual-token reduction over a grid of settings, in one pass over the data.

    python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun

GROUP=NAME chooses a file of conf/GROUP, GROUP.OPTION=VALUE sets one of its options, KEY=VALUE a setting. A comma list
over any of them, with --multirun, makes a grid.

Flags: --multirun; --cfg job, print the configuration, unchecked; --config-dir DIR, more configuration files; --help.
"""
JSON = "print the figures as a line of JSON; default: where standard output is no terminal. Values: true or false"
# Options that every choice of a group has.
_SHARED: dict[str, type[BaseModel]] = {
    "aggregation": AggregationSettings,
    "logger": LoggerSettings,
    "method": MethodSettings,
    "model": ModelSettings,
    "workers": WorkersSettings,
}
_NOTES = {"method": "A user's own: method=FILE.py:CLASS, with the fields of the class as options."}
# A line of YAML with a value, and its comment.
_OPTION = re.compile(r"\s*(?P<key>\w+):[^#]*(?:\s#\s*(?P<comment>.*))?")


def print_help(conf: Path) -> None:
    """Prints the help page to standard output, as wide as the terminal. conf: the folder with sweep.yaml and groups."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    for paragraph in HEADER.split("\n\n"):
        print(paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width), end="\n\n")
    print("Settings and their defaults\n")
    print_settings(described(), width)
    _entry("json=", JSON, width)
    for group in group_names(conf):
        print(f"\n{group}=NAME{'' if group == 'experiment' else f', and {group}.OPTION=VALUE'}\n")
        if group in _NOTES:
            print(textwrap.indent(textwrap.fill(_NOTES[group], width - 2), "  "), end="\n\n")
        shared = _shared_options(group)
        for option, (default, text) in shared.items():
            _entry(f"{group}.{option}={_written(default)}", text, width)
        for file in sorted((conf / group).glob("*.yaml")):
            _entry(file.stem, "\n".join(_choice(file, shared)), width)


def print_settings(settings: Iterable[tuple[str, Any, str, str]], width: int) -> None:
    """Prints settings as `described` gives them: key, default, meaning and allowed values."""
    for key, default, meaning, allowed in settings:
        _entry(f"{key}={_written(default)}", _sentence(meaning, allowed), width)


def _shared_options(group: str) -> dict[str, tuple[Any, str]]:
    """The declared options of a group: default and meaning."""
    fields = _SHARED[group].model_fields.items() if group in _SHARED else ()
    return {
        name: (field.default, _sentence(str(field.description), declaration(field)["allowed"]))
        for name, field in fields
        if name != "name" and field.description
    }


def _choice(file: Path, shared: Mapping[str, Any]) -> Iterator[str]:
    """What the help says of a file: when to choose it, then its options that are not shared or have other values."""
    text = file.read_text(encoding="utf-8")
    header = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    yield " ".join(header)
    loaded = yaml.safe_load(text)
    options = loaded.get(file.parent.name, loaded)
    comments = {found["key"]: found["comment"] for line in text.splitlines() if (found := _OPTION.fullmatch(line))}
    own = []
    for key, value in options.items():
        if key not in ("name", "hydra") and (key not in shared or shared[key][0] != value):
            comment = None if key in shared else comments.get(key)
            own.append(f"{key}={_written(value)}" + (f" ({comment})" if comment else ""))
    if own:
        yield ", ".join(own)


def _sentence(meaning: str, allowed: str) -> str:
    return f"{meaning}. Values: {allowed.removeprefix('must be ').removeprefix('choose one of ')}"


def _entry(name: str, text: str, width: int) -> None:
    """A name, and its text indented below it or, if short, beside it."""
    start = f"  {name}  "
    indent = " " * 26
    if len(start) > len(indent):
        print(start.rstrip())
        start = indent
    for paragraph in text.split("\n"):
        wrapped = textwrap.fill(
            paragraph, width, initial_indent=f"{start:<26}", subsequent_indent=indent, break_on_hyphens=False
        )
        print(wrapped.rstrip())
        start = ""


def _written(value: object) -> str:
    """A value as it is typed on the command line."""
    if value == "???":
        return "..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(each)}' for key, each in value.items())}}}"
    return str(value)
