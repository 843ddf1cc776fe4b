"""A model as commands other than the sweep name it: a file of conf/model, a folder, or a hub id."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runners.terminal.arguments import read_value
from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from tokensel.evaluation.sweep.groups import ModelSettings

MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"


def read_model(given: Mapping[str, str]) -> "ModelSettings":
    """The model's settings: those of its file in conf/model, or of a folder or hub id, with the options given.

    Raises TokenselError for an unknown option or a wrong value.
    """
    from tokensel.evaluation.sweep.reading import read_settings

    name = given.get("model", "tiny")
    file = MODELS / f"{name}.yaml"
    values: dict[str, Any] = {"path": name, "dtype": "auto"}
    if "/" not in name and file.is_file():
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    options = {key: text for key, text in given.items() if key.startswith("model.")}
    options |= {f"model.{key}": given[key] for key in ("dtype", "device") if key in given}
    values |= {key.removeprefix("model."): read_value(text) for key, text in options.items()}
    if values.get("path") == "???":
        raise TokenselError("model.path: missing; give model.path=FOLDER")
    groups = {"method": {"name": "fps"}, "data": {"name": "diagrams"}, "logger": {"name": "none"}}
    return read_settings({**groups, "model": values}).model
