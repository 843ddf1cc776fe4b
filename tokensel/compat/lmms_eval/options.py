"""The options that lmms-eval passes to a model, `--model_args KEY=VALUE,...`, as the settings of a sweep."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import yaml

from tokensel.errors import TokenselError, as_typed, meant
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.sweep.groups import ModelSettings
from tokensel.evaluation.sweep.plan import plan_point
from tokensel.evaluation.sweep.reading import read_settings
from tokensel.evaluation.sweep.settings import SweepSettings
from tokensel.methods import find_method

#: Settings of a sweep that mean the same here.
SHARED = (
    *("kept", "agg_layer", "temperature", "aggregation", "aggregation.path", "layout", "position", "scope", "seed"),
    *("conv", "image_aspect", "batch_size", "compile"),
)
MODEL = tuple(name for name in ModelSettings.model_fields if name not in ("path", "conv", "image_aspect"))
_TEXTS = ("model.path", "model.revision", "model.vision_tower", "model.family")


@dataclass(frozen=True)
class Options:
    """The options, read.

    settings: those of a sweep with this one point. typed: for each of their keys that was given, as it was typed.
    """

    settings: SweepSettings
    typed: Mapping[str, str]

    def point(self) -> GridPoint:
        """The grid point. Raises TokenselError for a setting that no model could run."""
        with naming(self.typed):
            return plan_point(self.settings).point


def read_options(arguments: Mapping[str, Any]) -> Options:
    """Reads the options: `pretrained`, `method` and those of SHARED and MODEL by their names, those of the method by
    theirs or as method.NAME. Numbers and booleans may be text, as on a command line; null means none.

    Raises TokenselError, which names the option, for one that is unknown or has a wrong value.
    """
    given = {name: _value(value) for name, value in arguments.items()}
    name = given.pop("method", None) or "full"
    method = find_method("full" if name == "none" else str(name))
    values: dict[str, Any] = {"method": {"name": method.name}, "model": {"path": "tiny"}, "data": {"name": "lmms"}}
    values |= {"logger": {"name": "none"}, "aggregation": {"name": None}}
    typed = {}
    for option, value in given.items():
        key = _key(option, [field.name for field in fields(method) if field.name != "seed"], method.name)
        typed[key] = option
        group, _, inner = key.rpartition(".")
        value = str(value) if key in _TEXTS and value is not None else value
        (values[group] if group else values)[inner] = value
    with naming(typed):
        options = Options(read_settings(values), typed)
    options.point()
    return options


@contextmanager
def naming(typed: Mapping[str, str]) -> Iterator[None]:
    """Errors about a setting begin with its name as it was typed: pretrained=X, where a sweep says model.path=X."""
    try:
        yield
    except TokenselError as error:
        for key, name in typed.items():
            if str(error).startswith(f"{key}="):
                raise TokenselError(name + str(error).removeprefix(key)) from error
        raise


def _key(option: str, own: list[str], method: str) -> str:
    """The sweep's key of an option. own: the options of the method."""
    if option in ("pretrained", "model.path"):
        return "model.path"
    if option in ("aggregation", "aggregation.path"):
        return "aggregation.name" if option == "aggregation" else option
    if option in SHARED:
        return option
    if option == "precision" or option == "method.precision":
        return "method.precision"
    group, _, inner = option.rpartition(".")
    if group in ("", "model") and inner in MODEL:
        return f"model.{inner}"
    if group in ("", "method") and inner in own:
        return f"method.{inner}"
    known = ["pretrained", "method", *SHARED, *MODEL, "precision", *own]
    options = f"options are {', '.join(known[: len(known) - len(own)])}"
    own_options = f"; of method={method} also {', '.join(own)}" if own else ""
    raise TokenselError(f"{option}: unknown option; {options}{own_options}{meant(option, known)}")


def _value(value: Any) -> Any:
    """A value as a sweep reads it. lmms-eval has made numbers and booleans of most text already: -1 is a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    try:
        read = yaml.safe_load(value) if value.startswith("[") or value in ("null", "true", "false") else value
    except yaml.YAMLError as error:
        raise TokenselError(f"{as_typed(value)}: must be a list, as [288,72]") from error
    return int(value) if isinstance(read, str) and value.lstrip("-").isdecimal() else read
