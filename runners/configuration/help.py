"""`python -m runners.sweep --help`: every setting and choice, from their one declaration and the files in conf/."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runners.configuration.errors import group_names
from tokensel.evaluation.sweep.reading import described

WIDEST = 100
HEADER = """\
Accuracy, time and memory of visual-token reduction over a grid of settings, in one pass over the data.

    python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun

GROUP=NAME chooses a file of conf/GROUP, GROUP.OPTION=VALUE sets one of its options, KEY=VALUE a setting. A comma list
over any of them, with --multirun, makes a grid.

Flags: --multirun; --cfg job, print the configuration, unchecked; --config-dir DIR, more configuration files; --help.
"""


def print_help(conf: Path) -> None:
    """Prints the help page to standard output, as wide as the terminal. conf: the folder with sweep.yaml and groups."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    for paragraph in HEADER.split("\n\n"):
        print(paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width), end="\n\n")
    print("Settings and their defaults\n")
    for key, default, meaning, allowed in described():
        values = allowed.removeprefix("must be ").removeprefix("choose one of ")
        _entry(f"{key}={_written(default)}", f"{meaning}. Values: {values}", width)
    for group in group_names(conf):
        print(f"\n{group}=NAME, with each choice's options as {group}.OPTION=VALUE\n")
        for file in sorted((conf / group).glob("*.yaml")):
            loaded: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            options = loaded.get(group, loaded)
            shown = [f"{key}={_written(value)}" for key, value in options.items() if key not in ("name", "hydra")]
            _entry(file.stem, " ".join(shown), width)


def _entry(name: str, text: str, width: int) -> None:
    """A name, and its text indented below it or, if short, beside it."""
    start = f"  {name}  "
    indent = " " * 26
    if len(start) > len(indent):
        print(start.rstrip())
        start = indent
    filled = textwrap.fill(text, width, initial_indent=f"{start:<26}", subsequent_indent=indent)
    print(filled.rstrip() or start.rstrip())


def _written(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return str(value)
