"""Mistakes in the settings as one line that names key, value and what is allowed. Hydra's own messages are longer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokensel.errors import TokenselError, as_typed, first_line, meant, printable

USER_ERRORS = (TokenselError, HydraException, OmegaConfBaseException)


def one_line(error: BaseException, conf: Path) -> str:
    """The message, in one line, for an error listed in USER_ERRORS. conf: the folder with sweep.yaml and the groups."""
    return printable(_message(error, conf))


def _message(error: BaseException, conf: Path) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if error.options:
            close = meant(name, error.options)
            return f"{group}={name}: unknown; choose one of {', '.join(sorted(error.options))}{close}"
        groups = group_names(conf)
        return f"{group or name}: no such group or file; groups are {', '.join(groups)}{meant(group or name, groups)}"
    if isinstance(error, OverrideParseException):
        return f"{as_typed(error.override)}: cannot be read as KEY=VALUE ({as_typed(first_line(error))})"
    for cause in (error, error.__cause__):
        key = getattr(cause, "full_key", None)
        if key and "is not in struct" in str(cause):
            return f"{key}: unknown key; {_allowed(key, conf)}"
    key = _quoted(str(error))
    if key and ("Could not override" in str(error) or "Could not append" in str(error)):
        return f"{key}: unknown key; {_allowed(key, conf)}"
    return first_line(error)


def _allowed(key: str, conf: Path) -> str:
    parent, _, last = key.rpartition(".")
    if parent and (conf / parent).is_dir():
        return _options(parent, last, conf)
    roots: Any = [OmegaConf.load(conf / name) for name in ("sweep.yaml", "search.yaml")]
    values = next((root[parent] for root in roots if parent in root), None)
    if isinstance(values, DictConfig):
        return f"keys of {parent} are {', '.join(map(str, values))}{meant(last, map(str, values))}"
    keys, groups = _keys(conf / "sweep.yaml"), group_names(conf)
    return f"keys are {', '.join(keys)}; groups are {', '.join(groups)}{meant(key, [*keys, *groups])}"


def _options(group: str, option: str, conf: Path) -> str:
    """The options of a group, by its files if they differ; where another file has this option, of that one only."""
    options = {file.stem: _keys(file) for file in sorted((conf / group).glob("*.yaml"))}
    elsewhere = [name for name, keys in options.items() if option in keys]
    if elsewhere:
        return f"the choice of {group} has no such option; {', '.join(elsewhere)} has"
    everything = dict.fromkeys(key for keys in options.values() for key in keys)
    if len(set(options.values())) == 1:
        return f"options of {group} are {', '.join(everything)}{meant(option, everything)}"
    listed = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in options.items() if keys)
    return f"options of {group} are, by choice, {listed}{meant(option, everything)}"


def _keys(file: Path) -> tuple[str, ...]:
    loaded: Any = OmegaConf.load(file)
    loaded = loaded.get(file.parent.name, loaded)
    hidden = ("defaults", "hydra", "method") if file.stem == "sweep" else ("name",)
    return tuple(str(key) for key in loaded if key not in hidden)


def group_names(conf: Path) -> Sequence[str]:
    """The groups of settings in conf/."""
    return sorted(path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra")


def _quoted(message: str) -> str:
    """The key in Hydra's "Could not override 'KEY'."."""
    return _between_quotes(message).split("=")[0].lstrip("+~")


def _between_quotes(message: str) -> str:
    parts = message.partition("\n")[0].split("'")
    return parts[1] if len(parts) > 2 else ""
