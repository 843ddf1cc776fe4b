"""Makes settings out of plain values, and describes them for `--help`.

settings = read_settings({"kept": 8, "method": {"name": "fps"}, "model": {"path": "tiny"}, ...})
settings.latency.repeats
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from tokensel.errors import TokenselError, as_typed, meant
from tokensel.evaluation.sweep.declaration import declaration, wrong_number, wrong_text
from tokensel.evaluation.sweep.groups import GROUPS
from tokensel.evaluation.sweep.settings import LatencySettings, SweepSettings


def read_settings(values: Mapping[str, Any]) -> SweepSettings:
    """The settings of one job, checked. Raises TokenselError that names key, value and what is allowed."""
    values = dict(values)
    if isinstance(values.get("aggregation", ""), str | None):  # just a name, as Python callers and older files have it
        values["aggregation"] = {"name": values.get("aggregation")}
    for group in GROUPS:
        if group in values and not isinstance(values[group], Mapping):
            raise TokenselError(f"{group}={values[group]}: must be the name of a file in conf/{group}")
    _refuse(values, wrong_text)
    try:
        settings = SweepSettings.model_validate(values)
    except ValidationError as error:
        raise TokenselError(_one_line(error, values)) from error
    _refuse(values, wrong_number)
    if settings.budget is not None and settings.kept is not None:
        raise TokenselError(f"kept={as_typed(settings.kept)}: leave it out; budget={settings.budget} decides it")
    return settings


def one_value(settings: list[SweepSettings]) -> SweepSettings:
    """The first job's settings, if all jobs agree in what belongs to the whole sweep; else raises TokenselError."""
    for name, field in SweepSettings.model_fields.items():
        if name in ("method", "model", "data") or declaration(field).get("scope", "sweep") != "sweep":
            continue
        for key in _leaves(name, getattr(settings[0], name)):
            values = dict.fromkeys(as_typed(_value_at(key, each.model_dump())) for each in settings)
            if len(values) > 1:
                raise TokenselError(f"{key}={','.join(values)}: must be one value for a whole sweep")
    return settings[0]


def _leaves(name: str, value: Any) -> list[str]:
    """The dotted keys of a setting: its own, or those of the settings in it."""
    return [f"{name}.{inner}" for inner in type(value).model_fields] if isinstance(value, BaseModel) else [name]


def _value_at(key: str, values: Any) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def described(kind: type[BaseModel] = SweepSettings, prefix: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """(key, default, meaning, allowed values) of every setting, nested ones by dotted keys; groups are left out."""
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, LatencySettings):
            yield from described(nested, f"{name}.")
        elif not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            yield f"{prefix}{name}", field.default, str(field.description), str(declaration(field)["allowed"])


def _one_line(error: ValidationError, values: Mapping[str, Any]) -> str:
    """The first mistake: its dotted key, its value, and what is allowed."""
    kind: Any = SweepSettings
    value: Any = values
    key, allowed = "", ""
    for part in error.errors()[0]["loc"]:
        if not _is_group(kind):
            break  # the rest says which member of a union, or which item of a list
        field = kind.model_fields.get(str(part))
        if field is None:
            keys = list(kind.model_fields)
            return f"{key}.{part}: unknown key; keys are {', '.join(keys)}{meant(str(part), keys)}"
        key = f"{key}.{part}" if key else str(part)
        if part not in value:
            return f"{key}: missing; give it a value"
        value, kind = value[part], field.annotation
        allowed = str(declaration(field).get("allowed") or f"must be a group of settings: {', '.join(_names(kind))}")
    choices = filter(None, allowed.partition("one of ")[2].split(", "))
    return f"{key}={as_typed(value)}: {allowed}{meant(str(value), choices)}"


def _refuse(values: Mapping[str, Any], wrong: Callable[[object], str]) -> None:
    """wrong: says what is wrong with a value, "" for nothing."""
    for key, value in _flat(values):
        if problem := wrong(value):
            raise TokenselError(f"{key}={as_typed(value)}: {problem}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no group of settings, by its dotted key."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _names(kind: Any) -> list[str]:
    return list(kind.model_fields) if _is_group(kind) else []
